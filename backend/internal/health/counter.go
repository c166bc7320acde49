// SPDX-License-Identifier: MPL-2.0

package health

import "time"

// slot is how long the requests that a counter counts together are apart, at most.
const slot = 5 * time.Minute

// counter counts requests of the last day, in slots. It is as long as there were slots with requests.
type counter struct {
	slots []slotCount
}

type slotCount struct {
	// slot is the slot's number since the beginning of Unix time.
	slot, count uint32
}

func slotOf(at time.Time) uint32 { return uint32(at.Unix() / int64(slot/time.Second)) }

// add counts a request.
func (c *counter) add(now time.Time) {
	n := slotOf(now)
	if last := len(c.slots) - 1; last >= 0 && c.slots[last].slot == n {
		c.slots[last].count++
		return
	}
	oldest := slotOf(now.Add(-24 * time.Hour))
	kept := c.slots[:0]
	for _, s := range c.slots {
		if s.slot > oldest {
			kept = append(kept, s)
		}
	}
	c.slots = append(kept, slotCount{n, 1})
}

// since returns the requests of the last while.
func (c *counter) since(now time.Time, while time.Duration) int {
	oldest, count := slotOf(now.Add(-while)), 0
	for _, s := range c.slots {
		if s.slot > oldest {
			count += int(s.count)
		}
	}
	return count
}
