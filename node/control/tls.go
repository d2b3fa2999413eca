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
	"time"
)

// Keys are one side's half of the mutual authentication: its own key and the
// public key of the only other side that it talks to. Certificates carry the
// keys over TLS and mean nothing else: no authority, no names, no expiry.
type Keys struct {
	Own  ed25519.PrivateKey
	Peer ed25519.PublicKey
}

// MarshalPrivateKey encodes a key as PEM (PKCS #8).
func MarshalPrivateKey(key ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a control key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// MarshalPublicKey encodes a key as PEM (PKIX).
func MarshalPublicKey(key ed25519.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a control key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// ReadKeys reads both halves from the PEM files that MarshalPrivateKey and
// MarshalPublicKey write.
func ReadKeys(ownFile, peerFile string) (Keys, error) {
	own, err := readPEM(ownFile, "PRIVATE KEY", x509.ParsePKCS8PrivateKey)
	if err != nil {
		return Keys{}, err
	}
	peer, err := readPEM(peerFile, "PUBLIC KEY", x509.ParsePKIXPublicKey)
	if err != nil {
		return Keys{}, err
	}
	var keys Keys
	var ok bool
	if keys.Own, ok = own.(ed25519.PrivateKey); !ok {
		return Keys{}, fmt.Errorf("control key %s: want ed25519, got %T", ownFile, own)
	}
	if keys.Peer, ok = peer.(ed25519.PublicKey); !ok {
		return Keys{}, fmt.Errorf("control key %s: want ed25519, got %T", peerFile, peer)
	}
	return keys, nil
}

func readPEM(file, kind string, parse func([]byte) (any, error)) (any, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading a control key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("control key %s: no PEM block %q in it", file, kind)
	}
	key, err := parse(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("control key %s: %w", file, err)
	}
	return key, nil
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
			if !ok || !got.Equal(k.Peer) {
				return errors.New("control API: the other side's key is not the pinned one")
			}
			return nil
		},
	}, nil
}
