package control

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"time"
)

// Keys are one side's half of the mutual authentication: its own key and the
// public key of the only other side that it talks to. Certificates carry the
// keys over TLS and mean nothing else: no authority, no names, no expiry.
type Keys struct {
	Own  ed25519.PrivateKey
	Peer ed25519.PublicKey
	// Also are the other side's keys before and after Peer: while keys are
	// rotated, one side has the new ones before the other.
	Also []ed25519.PublicKey
}

// maxPeerKeys bounds the keys of the other side.
const maxPeerKeys = 8

// MarshalPrivateKey encodes a key as PEM (PKCS #8).
func MarshalPrivateKey(key ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a control key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// MarshalPublicKeys encodes keys as PEM (PKIX), one block each: Keys.Peer first.
func MarshalPublicKeys(keys ...ed25519.PublicKey) ([]byte, error) {
	var out []byte
	for _, key := range keys {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			return nil, fmt.Errorf("encoding a control key: %w", err)
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})...)
	}
	return out, nil
}

// ReadKeys reads both halves from the PEM files that MarshalPrivateKey and
// MarshalPublicKeys write.
func ReadKeys(ownFile, peerFile string) (Keys, error) {
	own, err := readPEM(ownFile, "PRIVATE KEY", 1, x509.ParsePKCS8PrivateKey)
	if err != nil {
		return Keys{}, err
	}
	peers, err := readPEM(peerFile, "PUBLIC KEY", maxPeerKeys, x509.ParsePKIXPublicKey)
	if err != nil {
		return Keys{}, err
	}
	var keys Keys
	var ok bool
	if keys.Own, ok = own[0].(ed25519.PrivateKey); !ok {
		return Keys{}, fmt.Errorf("control key %s: want ed25519, got %T", ownFile, own[0])
	}
	for _, peer := range peers {
		key, ok := peer.(ed25519.PublicKey)
		if !ok {
			return Keys{}, fmt.Errorf("control key %s: want ed25519, got %T", peerFile, peer)
		}
		keys.Also = append(keys.Also, key)
	}
	keys.Peer, keys.Also = keys.Also[0], keys.Also[1:]
	return keys, nil
}

// readPEM reads one key, or as many as there are, at most limit.
func readPEM(file, kind string, limit int, parse func([]byte) (any, error)) (keys []any, err error) {
	data, err := readRegular(file)
	if err != nil {
		return nil, fmt.Errorf("reading a control key: %w", err)
	}
	for len(keys) < limit {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type != kind {
			return nil, fmt.Errorf("control key %s: want PEM blocks %q, got %q", file, kind, block.Type)
		}
		key, err := parse(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("control key %s: %w", file, err)
		}
		keys, data = append(keys, key), rest
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("control key %s: no PEM block %q in it", file, kind)
	}
	return keys, nil
}

// readRegular reads a file, and does not wait for what a FIFO may bring. Package
// durable, which does it better, runs on Linux alone; this package is part of the
// plugin of kubectl too.
func readRegular(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file: put a file there", name)
	}
	return os.ReadFile(name)
}

// ServerTLS is the configuration of the node's side.
func (k Keys) ServerTLS() (*tls.Config, error) {
	c, err := k.config()
	if err != nil {
		return nil, err
	}
	c.ClientAuth = tls.RequireAnyClientCert
	return c, nil
}

// ClientTLS is the configuration of the operator's side.
func (k Keys) ClientTLS() (*tls.Config, error) {
	c, err := k.config()
	if err != nil {
		return nil, err
	}
	c.InsecureSkipVerify = true // VerifyConnection pins the key itself
	return c, nil
}

func (k Keys) config() (*tls.Config, error) {
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, k.Own.Public(), k.Own)
	if err != nil {
		return nil, fmt.Errorf("making the control certificate: %w", err)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: k.Own}},
		// Called on resumption too, unlike VerifyPeerCertificate.
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errors.New("control API: the other side sent no certificate")
			}
			got, ok := s.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
			if !ok || !got.Equal(k.Peer) && !slices.ContainsFunc(k.Also, func(key ed25519.PublicKey) bool { return got.Equal(key) }) {
				return errors.New("control API: the other side's key is not a pinned one")
			}
			return nil
		},
	}, nil
}
