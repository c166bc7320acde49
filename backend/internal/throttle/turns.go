// SPDX-License-Identifier: MPL-2.0

package throttle

import "slices"

// turns is a queue of requests in which names take turns, so that many requests of one name do not delay another's. The
// requests of one name wait in a queue of their own, in which names of the next level take turns. A request's path has its
// name on each level. The requests of one path keep their order. The zero queue is empty.
type turns struct {
	name string
	size int
	// order holds the queues of the names with waiting requests, the next one first, and names finds them.
	order  []*turns
	names  map[string]*turns
	depths depths
	// line holds the requests of the last level, which has no names.
	line []*waiter
}

// sizeOf returns how many requests of a name wait.
func (t *turns) sizeOf(name string) int {
	if own, ok := t.names[name]; ok {
		return own.size
	}
	return 0
}

// ahead returns how many requests would have their turn before the next one of that path. The result is exact for a new name.
// For others it can be too high by a round, because it ignores which names wait behind the path's own.
func (t *turns) ahead(path ...string) int {
	if t == nil {
		return 0
	}
	if len(path) == 0 {
		return t.size
	}
	own := t.names[path[0]]
	rank := own.ahead(path[1:]...) + 1
	ahead := t.depths.upTo(rank)
	if own != nil && rank <= own.size {
		ahead-- // the own name's request of that rank, which will be behind
	}
	return ahead
}

// push adds a request.
func (t *turns) push(w *waiter, path ...string) {
	t.size++
	if len(path) == 0 {
		t.line = append(t.line, w)
		return
	}
	own, ok := t.names[path[0]]
	if !ok {
		if t.names == nil {
			t.names = make(map[string]*turns)
		}
		own = &turns{name: path[0]}
		t.names[own.name] = own
		t.order = append(t.order, own)
	}
	own.push(w, path[1:]...)
	t.depths.add(own.size)
}

// next removes the next request, and returns it. The queue must not be empty.
func (t *turns) next() *waiter {
	t.size--
	if len(t.order) == 0 {
		w := t.line[0]
		t.line[0] = nil
		t.line = t.line[1:]
		return w
	}
	own := t.order[0]
	t.order = t.order[1:]
	t.depths.drop(own.size)
	w := own.next()
	if own.size > 0 {
		t.order = append(t.order, own)
	} else {
		delete(t.names, own.name)
	}
	return w
}

// remove removes a request. It reports false if the queue does not hold it.
func (t *turns) remove(w *waiter, path ...string) bool {
	if t == nil {
		return false
	}
	if len(path) == 0 {
		at := slices.Index(t.line, w)
		if at < 0 {
			return false
		}
		t.line = slices.Delete(t.line, at, at+1)
		t.size--
		return true
	}
	own := t.names[path[0]]
	if !own.remove(w, path[1:]...) {
		return false
	}
	t.size--
	t.depths.drop(own.size + 1)
	if own.size == 0 {
		delete(t.names, own.name)
		at := slices.Index(t.order, own)
		t.order = slices.Delete(t.order, at, at+1)
	}
	return true
}

// first returns the next request; nil if there is none.
func (t *turns) first() *waiter {
	switch {
	case len(t.order) > 0:
		return t.order[0].first()
	case len(t.line) > 0:
		return t.line[0]
	}
	return nil
}

// rotate lets the other names have their turns before that of a path, on each level.
func (t *turns) rotate(path ...string) {
	if len(path) == 0 {
		return
	}
	own, ok := t.names[path[0]]
	if !ok {
		return
	}
	at := slices.Index(t.order, own)
	t.order = append(slices.Delete(t.order, at, at+1), own)
	own.rotate(path[1:]...)
}

// list returns the waiting requests, the next one first.
func (t *turns) list() []*waiter {
	if len(t.order) == 0 {
		return t.line
	}
	lines := make([][]*waiter, len(t.order))
	for i, own := range t.order {
		lines[i] = own.list()
	}
	all := make([]*waiter, 0, t.size)
	for round := 0; len(lines) > 0; round++ {
		left := lines[:0]
		for _, line := range lines {
			all = append(all, line[round])
			if round+1 < len(line) {
				left = append(left, line)
			}
		}
		lines = left
	}
	return all
}

// removeAll removes the requests for which gone returns true.
func (t *turns) removeAll(gone func(*waiter) bool) {
	t.line = slices.DeleteFunc(t.line, gone)
	t.size, t.depths = len(t.line), nil
	t.order = slices.DeleteFunc(t.order, func(own *turns) bool {
		own.removeAll(gone)
		if own.size == 0 {
			delete(t.names, own.name)
			return true
		}
		t.size += own.size
		for size := range own.size {
			t.depths.add(size + 1)
		}
		return false
	})
}

// depths counts the names that have at least one, two, three and so on requests. So a request's place in the order can be
// computed without a look at each name.
type depths []int

// add counts the last request of a name, which has that many now.
func (d *depths) add(size int) {
	if size > len(*d) {
		*d = append(*d, 0)
	}
	(*d)[size-1]++
}

// drop discounts the last request of a name, which has had that many until now.
func (d *depths) drop(size int) {
	(*d)[size-1]--
	if last := len(*d) - 1; (*d)[last] == 0 {
		*d = (*d)[:last]
	}
}

// at returns how many names have at least that many.
func (d depths) at(size int) int {
	if size > len(d) {
		return 0
	}
	return d[size-1]
}

// upTo returns how many requests there are if each name counts for at most that many.
func (d depths) upTo(size int) (sum int) {
	for _, names := range d[:min(size, len(d))] {
		sum += names
	}
	return sum
}
