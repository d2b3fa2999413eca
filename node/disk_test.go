package node

import "testing"

func TestADiskIsFullForAWhile(t *testing.T) {
	const gib = 1 << 30
	for _, tc := range []struct {
		was        bool
		size, free uint64
		want       bool
	}{
		{false, 20 * gib, 2 * gib, false}, {false, 20 * gib, gib - 1, true}, {true, 20 * gib, gib + 1, true}, {true, 20 * gib, 2*gib + 1, false},
		{false, 1000 * gib, 2 * gib, false}, {false, gib, gib / 10, false}, {false, gib, gib / 30, true}, {false, 0, 0, false},
	} {
		if got := isFull(tc.was, tc.size, tc.free); got != tc.want {
			t.Errorf("isFull(%v, %d, %d) = %v", tc.was, tc.size, tc.free, got)
		}
	}
}
