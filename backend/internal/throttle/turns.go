// SPDX-License-Identifier: MPL-2.0

package throttle

import "slices"

// turnQueue is a queue of requests in which names take turns, so that many requests of one name do not delay another's. The
// requests of one name keep their order. The zero queue is empty.
type turnQueue struct {
	// names are those with waiting requests, the next one first.
	names   []string
	waiting map[string][]chan struct{}
}

func (q *turnQueue) empty() bool {
	return len(q.names) == 0
}

// ahead returns how many requests have their turn before the next one of that name.
func (q *turnQueue) ahead(name string) int {
	own := len(q.waiting[name])
	ahead := own
	for other, waiting := range q.waiting {
		if other != name {
			ahead += min(len(waiting), own+1)
		}
	}
	return ahead
}

// push adds a request. The channel is closed when its turn has come.
func (q *turnQueue) push(name string) chan struct{} {
	if q.waiting == nil {
		q.waiting = make(map[string][]chan struct{})
	}
	if len(q.waiting[name]) == 0 {
		q.names = append(q.names, name)
	}
	turn := make(chan struct{})
	q.waiting[name] = append(q.waiting[name], turn)
	return turn
}

// next closes the channel of the next request, and removes it. The queue must not be empty.
func (q *turnQueue) next() {
	name := q.names[0]
	q.names = q.names[1:]
	close(q.waiting[name][0])
	if q.waiting[name] = q.waiting[name][1:]; len(q.waiting[name]) > 0 {
		q.names = append(q.names, name)
	} else {
		delete(q.waiting, name)
	}
}

// remove removes a request. It reports false if the request's turn has come.
func (q *turnQueue) remove(name string, turn chan struct{}) bool {
	at := slices.Index(q.waiting[name], turn)
	if at < 0 {
		return false
	}
	q.waiting[name] = slices.Delete(q.waiting[name], at, at+1)
	if len(q.waiting[name]) == 0 {
		delete(q.waiting, name)
		q.names = slices.DeleteFunc(q.names, func(other string) bool { return other == name })
	}
	return true
}
