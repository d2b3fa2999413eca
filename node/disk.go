package node

import (
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/control"
)

const (
	// A disk is called full when less than a twentieth of it, or less than
	// leastFree bytes, are free, whichever is less; and no longer when twice as
	// much is.
	leastFree = 1 << 30
	// corruptFor is how long a corrupt blob is worth an alarm.
	corruptFor = time.Hour
)

// disk is the last observed state of the disk.
type disk struct {
	mu        sync.Mutex // guards what follows
	full      bool
	corrupt   int64 // blobs, since the start
	corruptAt time.Time
}

// diskAlarms are about the disk of the node's data.
func (n *Node) diskAlarms(now time.Time) (out []control.Alarm) {
	var fs syscall.Statfs_t
	statErr := syscall.Statfs(n.config.DataDir, &fs)
	n.disk.mu.Lock()
	defer n.disk.mu.Unlock()
	if statErr == nil {
		size, free := fs.Blocks*uint64(fs.Bsize), fs.Bavail*uint64(fs.Bsize)
		n.disk.full = isFull(n.disk.full, size, free)
	}
	if n.disk.full {
		out = append(out, control.Alarm{Kind: control.AlarmDiskFull, Message: fmt.Sprintf("the disk of %s has hardly any room left", n.config.DataDir)})
	}
	if corrupt := n.store.Corrupt(); corrupt != n.disk.corrupt {
		n.disk.corrupt, n.disk.corruptAt = corrupt, now
	}
	if n.disk.corrupt > 0 && now.Sub(n.disk.corruptAt) < corruptFor {
		out = append(out, control.Alarm{Kind: control.AlarmVerificationFailed, Message: "content on the disk was not what its digest says; it was put aside and is fetched again"})
	}
	return out
}

func isFull(was bool, size, free uint64) bool {
	least := min(size/20, leastFree)
	if was {
		least *= 2
	}
	return free < least
}
