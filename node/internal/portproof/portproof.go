// Package portproof proves that a port on this machine is held by a certain
// mirror. A port number alone proves nothing: any process may listen there, and
// the one that does when containerd is configured becomes the registry of the
// whole machine.
//
// The holder of the port answers a nonce at Path with a MAC under a secret that
// it keeps in a folder of its own. The MAC covers the port too, so that a
// foreign process at another port cannot use the answer of this one. The
// package imports nothing of the project; the socket proxy answers, node/cli
// asks.
package portproof

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Path is where the holder of a mirror's port answers, to GET with ?nonce=HEX.
const Path = "/.well-known/pyrsia-mirror"

const (
	// SecretFile is the secret's name in the folder of the mirror's sockets.
	SecretFile = "port.secret"
	// SocketFile is where a socket proxy serves Relay in that folder.
	SocketFile = "port.sock"
	secretSize = 32
	// greeting begins each answer.
	greeting  = "pyrsia-mirror v1 "
	maxNonce  = 128
	maxAnswer = 1 << 10
	// tryTime bounds each question, and tryEvery is how often it is put.
	tryTime  = 2 * time.Second
	tryEvery = 250 * time.Millisecond
)

// Secret reads the secret in a folder, and makes it if it is not there.
func Secret(dir string) ([]byte, error) {
	name := filepath.Join(dir, SecretFile)
	for range 2 {
		secret, err := ReadSecret(name)
		if err == nil {
			return secret, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err := makeSecret(dir, name); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("making the secret of the mirror's port: %w", err)
		}
	}
	return ReadSecret(name)
}

// ReadSecret reads a secret that is there.
func ReadSecret(name string) ([]byte, error) {
	// The folder is another user's: a link out of it, or a pipe, is refused.
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("reading the secret of the mirror's port: %w", &os.PathError{Op: "open", Path: name, Err: err})
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	secret, err := io.ReadAll(io.LimitReader(f, secretSize+1))
	if err == nil && len(secret) != secretSize {
		err = fmt.Errorf("%s has not the size of a secret: remove it, and start the mirror again", name)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the secret of the mirror's port: %w", err)
	}
	return secret, nil
}

// makeSecret puts a new secret at name, unless one is there: two socket proxies may
// start at the same time, and the later one has the secret of the first.
func makeSecret(dir, name string) error {
	f, err := os.CreateTemp(dir, ".new-secret-*") // for this user alone
	if err != nil {
		return err
	}
	secret := make([]byte, secretSize)
	_, _ = rand.Read(secret) // never fails
	_, err = f.Write(secret)
	err = errors.Join(err, f.Sync(), f.Close())
	// Crash before: a useless temporary file of 32 bytes.
	if err == nil {
		err = os.Link(f.Name(), name)
	}
	return errors.Join(err, os.Remove(f.Name()))
}

// answer is what the holder of a port says to a nonce.
func answer(secret []byte, port, nonce string) string {
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "%s%s %s", greeting, port, nonce)
	return greeting + hex.EncodeToString(mac.Sum(nil))
}

// Answer is what the holder of addr, HOST:PORT, says to a question at Path.
func Answer(secret []byte, addr string, question url.Values) string {
	_, port, _ := net.SplitHostPort(addr)
	nonce := question.Get("nonce")
	return answer(secret, port, nonce[:min(len(nonce), maxNonce)])
}

// Handler answers at addr.
func Handler(secret []byte, addr string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, Answer(secret, addr, r.URL.Query()))
	})
}

// Error says that a port is not held by the mirror that it should be.
type Error struct {
	URL string
	// Found is what was there instead.
	Found string
	// Foreign tells that it was another program or mirror, and not nothing.
	Foreign bool
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s is not the port of this mirror: %s. Nothing was set up: see which process has the port ('ss -ltnp'), and end it or give the mirror another port", e.URL, e.Found)
}

// Check asks the port of a mirror's URL, for at most the given time, until it is
// held by the mirror with this secret, or by any mirror if there is none. A pod
// cannot reach a port on the machine's loopback address: then socket is the path
// of Relay's socket, else it is empty. The error is an *Error if the port is not
// the mirror's.
func Check(ctx context.Context, mirror string, secret []byte, socket string, wait time.Duration) error {
	u, err := url.Parse(mirror)
	if err != nil {
		return err
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	// No proxy: the port is on this machine. The certificate is not checked,
	// because the MAC under the secret proves more.
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	if socket != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}
	}
	client := newClient(transport)
	for end := time.Now().Add(wait); ; {
		found, foreign := ask(ctx, client, mirror, port, secret, socket != "")
		if found == "" {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(end) {
			return &Error{URL: mirror, Found: found, Foreign: foreign}
		}
		select {
		case <-ctx.Done():
		case <-time.After(tryEvery):
		}
	}
}

func newClient(t *http.Transport) *http.Client {
	return &http.Client{Transport: t, Timeout: tryTime, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
}

// Relay forwards questions to the port at addr, or to one of the others if the
// question names it, and returns the answers, for callers that cannot reach the
// port. It need not be trusted: only the holder of the secret can answer.
func Relay(addr string, others ...string) http.Handler {
	client := newClient(&http.Transport{DisableKeepAlives: true})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked := addr
		if slices.Contains(others, r.Host) {
			asked = r.Host
		}
		question := "http://" + asked + Path + "?nonce=" + url.QueryEscape(r.URL.Query().Get("nonce"))
		req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, question, nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		resp, err := client.Do(req)
		if err != nil {
			if errors.Is(err, unix.ECONNREFUSED) {
				w.Header().Set(nobodyHeader, "true") // the port's own headers are not passed on
			}
			http.Error(w, "the port does not answer", http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, io.LimitReader(resp.Body, maxAnswer))
	})
}

// nobodyHeader is Relay's own word that nothing listens at the port.
const nobodyHeader = "Pyrsia-Nobody-Listens"

// ask asks once, and returns what is wrong with the answer, and whether another
// process gave it.
func ask(ctx context.Context, client *http.Client, mirror, port string, secret []byte, relayed bool) (found string, foreign bool) {
	const nobody = "nothing listens there (does the mirror run?)"
	nonce := rand.Text()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, mirror+Path+"?nonce="+nonce, nil)
	if err != nil {
		return err.Error(), false
	}
	resp, err := client.Do(req)
	if err != nil {
		if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
			return nobody, false
		}
		if inner, ok := errors.AsType[*url.Error](err); ok && !inner.Timeout() {
			return "what listens there does not speak HTTP: " + inner.Err.Error(), ctx.Err() == nil
		}
		return "what listens there does not answer within " + tryTime.String(), true // without the nonce: a condition repeats it
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case relayed && resp.Header.Get(nobodyHeader) != "":
		return nobody, false
	case err != nil:
		return "what listens there does not answer: " + err.Error(), true
	case resp.StatusCode != http.StatusOK || !strings.HasPrefix(string(said), greeting):
		return fmt.Sprintf("another program answers there (status %d), or a mirror of v0.1.0", resp.StatusCode), true
	case secret != nil && !hmac.Equal(said, []byte(answer(secret, port, nonce))):
		return "another mirror answers there", true
	}
	return "", false
}
