package control

import (
	"crypto/tls"
	"log/slog"
	"reflect"
	"sync"
)

// keyFiles are a node's keys in files that the operator replaces when it
// rotates them, as the kubelet brings a changed Secret.
type keyFiles struct {
	own, peer string
	log       *slog.Logger

	mu     sync.Mutex // guards what follows
	keys   Keys
	config *tls.Config
}

// ServerTLSFromFiles is the configuration of the node's side, with the keys that
// are in the files (see ReadKeys) at each handshake. Files that cannot be read
// after the first time leave the keys as they were.
func ServerTLSFromFiles(ownFile, peerFile string, log *slog.Logger) (*tls.Config, error) {
	f := &keyFiles{own: ownFile, peer: peerFile, log: log}
	config, err := f.load()
	if err != nil {
		return nil, err
	}
	c := config.Clone()
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return f.current(), nil }
	return c, nil
}

func (f *keyFiles) current() *tls.Config {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.load(); err != nil {
		f.log.Error("the keys of the control API: going on with the old ones", "error", err)
	}
	return f.config
}

// load reads the files; the caller holds mu, or is the only one.
func (f *keyFiles) load() (*tls.Config, error) {
	keys, err := ReadKeys(f.own, f.peer)
	if err != nil || reflect.DeepEqual(keys, f.keys) {
		return f.config, err
	}
	config, err := keys.ServerTLS()
	if err != nil {
		return f.config, err
	}
	f.keys, f.config = keys, config
	return config, nil
}
