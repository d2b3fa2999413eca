package node

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificate is a TLS certificate in files that may be replaced at any time,
// as cert-manager and the kubelet do.
type certificate struct {
	cert, key string // files, PEM
	log       *slog.Logger

	mu      sync.Mutex // guards what follows
	current *tls.Certificate
	changed time.Time // of the certificate's file
	looked  time.Time
}

// certificateInterval is how often the files are checked.
const certificateInterval = 10 * time.Second

// serverTLS reads a certificate for the mirror port.
func serverTLS(cert, key string, log *slog.Logger) (*tls.Config, error) {
	c := &certificate{cert: cert, key: key, log: log}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("the mirror's TLS certificate: %w", err)
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get(time.Now()), nil },
	}, nil
}

func (c *certificate) load() error {
	info, err := os.Stat(c.cert)
	if err != nil {
		return err
	}
	if c.current != nil && info.ModTime().Equal(c.changed) {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return err
	}
	c.current, c.changed = &pair, info.ModTime()
	return nil
}

// get gives the newest certificate that could be read.
func (c *certificate) get(now time.Time) *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.looked) >= certificateInterval {
		c.looked = now
		if err := c.load(); err != nil {
			c.log.Error("the mirror's TLS certificate: going on with the old one", "error", err)
		}
	}
	return c.current
}
