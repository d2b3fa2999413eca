package replica

import "sync"

// digestLocks is a lock for each digest of a repository.
type digestLocks struct {
	mu    sync.Mutex // guards what follows
	locks map[string]*digestLock
}

type digestLock struct {
	sync.RWMutex
	users int // that hold it or wait for it; guarded by digestLocks.mu
}

// lock locks a digest.
func (l *digestLocks) lock(key string) (unlock func()) {
	d := l.use(key)
	d.Lock()
	return func() { d.Unlock(); l.leave(key, d) }
}

// share locks a digest for any number of concurrent callers.
func (l *digestLocks) share(key string) (unlock func()) {
	d := l.use(key)
	d.RLock()
	return func() { d.RUnlock(); l.leave(key, d) }
}

func (l *digestLocks) use(key string) *digestLock {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.locks == nil {
		l.locks = map[string]*digestLock{}
	}
	d := l.locks[key]
	if d == nil {
		d = new(digestLock)
		l.locks[key] = d
	}
	d.users++
	return d
}

func (l *digestLocks) leave(key string, d *digestLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d.users--; d.users == 0 {
		delete(l.locks, key)
	}
}
