package socketproxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/canary"
	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// The proxy answers for the canary itself: it is the operator's own program,
// at the port that containerd asks, and the proof does not depend on whether the
// mirror behind it runs. Nothing but the canary can be had by the canary's name.

// ProofPath is where the proxy says whether containerd has asked for the canary
// since containerd started, to GET with the mirror's name after it.
const ProofPath = "/.well-known/pyrsia-canary/"

const (
	// proofFile in Dir identifies the containerd process that asked last. The
	// successor of this proxy continues with it.
	proofFile = "canary.proof"
	// canaryTimeout bounds each answer about the canary.
	canaryTimeout = 10 * time.Second
)

// canaryName is a label of DNS: it is part of a registry's name.
var canaryName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func checkCanary(name string) error {
	if name == "" || canaryName.MatchString(name) {
		return nil
	}
	return fmt.Errorf("canary %q: want at most 63 lower-case letters, digits and '-'", name)
}

// answerCanary answers a request for the canary or its proof. It reports whether
// the connection was one.
func (p *proxy) answerCanary(client net.Conn, first []byte) bool {
	line, _, whole := bytes.Cut(first, []byte("\r\n"))
	if p.Canary == "" || !whole || !bytes.Contains(line, []byte(p.Canary)) {
		return false
	}
	parts := strings.Fields(string(line))
	if len(parts) != 3 {
		return false
	}
	u, err := url.ParseRequestURI(parts[1])
	if err != nil || u.Path != ProofPath+p.Canary && u.Query().Get("ns") != canary.Registry(p.Canary) {
		return false
	}
	_ = client.SetDeadline(time.Now().Add(canaryTimeout))
	req, err := http.ReadRequest(bufio.NewReader(io.MultiReader(bytes.NewReader(first), client)))
	if err != nil {
		return true // it has not said what it wants
	}
	a := p.canaryAnswer(req)
	// Each connection is for one answer: the next request of a client that goes on
	// to another image comes by another one, and to the mirror.
	head := fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n", a.status, http.StatusText(a.status), a.mediaType, len(a.body))
	if a.digest != "" {
		head += "Docker-Content-Digest: " + a.digest.String() + "\r\n"
	}
	if req.Method == http.MethodHead {
		a.body = nil
	}
	_, _ = client.Write(append([]byte(head+"\r\n"), a.body...)) // the client is gone: nobody to tell
	return true
}

type canaryAnswer struct {
	status    int
	mediaType string
	digest    digest.Digest
	body      []byte
}

func (p *proxy) canaryAnswer(req *http.Request) canaryAnswer {
	say := func(status int, text string) canaryAnswer {
		return canaryAnswer{status: status, mediaType: "text/plain", body: []byte(text + "\n")}
	}
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		return say(http.StatusMethodNotAllowed, "the canary can only be read")
	}
	if req.URL.Path == ProofPath+p.Canary {
		if err := p.proven(); err != nil {
			return say(http.StatusServiceUnavailable, err.Error())
		}
		return say(http.StatusOK, "containerd asks this mirror")
	}
	d := digest.Digest(path.Base(req.URL.Path))
	mediaType, data, ok := canary.Content(d)
	if !ok || !strings.HasPrefix(req.URL.Path, "/v2/canary/") {
		return say(http.StatusNotFound, "there is nothing here but the canary of Pyrsia")
	}
	if d == canary.Digest() {
		if err := p.noteProof(); err != nil {
			p.Log.Warn("the proof that containerd asks this mirror is not kept", "error", err)
		}
	}
	return canaryAnswer{http.StatusOK, mediaType, d, data}
}

// noteProof notes that containerd, as it runs now, asks this mirror.
func (p *proxy) noteProof() error {
	now, err := p.asks()
	if err != nil {
		return err
	}
	if was, _, err := durable.ReadIfThere(p.proofFile()); err == nil && string(was) == now {
		return nil
	}
	p.Log.Info("containerd asks this mirror: it has asked for the canary")
	// Crash before: no proof, or one of an earlier containerd, so that containerd
	// has to ask again.
	return durable.WriteFile(p.proofFile(), []byte(now))
}

// proven says what is missing to the proof.
func (p *proxy) proven() error {
	now, err := p.asks()
	if err != nil {
		return err
	}
	was, there, err := durable.ReadIfThere(p.proofFile())
	switch {
	case err != nil:
		return err
	case !there:
		return fmt.Errorf("containerd has not asked this mirror for the canary yet")
	case string(was) != now:
		return fmt.Errorf("containerd was started since it asked this mirror for the canary")
	}
	return nil
}

func (p *proxy) proofFile() string { return filepath.Join(p.Dir, proofFile) }

// asks is what is proven: which containerd asks for which mirror's canary.
func (p *proxy) asks() (string, error) {
	started, err := containerdStarted()
	return p.Canary + "\n" + started, err
}

const (
	unixSockets = "/proc/net/unix"
	bootID      = "/proc/sys/kernel/random/boot_id"
	// acceptsConnections is the flag of a socket that listens (__SO_ACCEPTCON).
	acceptsConnections = 0x10000
)

// containerdStarted identifies a start of containerd by the inodes of the sockets
// at which containerds listen on this machine: each start makes a new one. They
// are looked up in the kernel's list (proc(5)); the sockets themselves cannot be
// reached from here. It takes the machine's own network namespace, where proxies
// run.
func containerdStarted() (string, error) {
	boot, err := os.ReadFile(bootID) // inodes are counted anew after a boot
	if err != nil {
		return "", err
	}
	file, err := os.Open(unixSockets)
	if err != nil {
		return "", err
	}
	defer file.Close()
	var found []string
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		// Num RefCount Protocol Flags Type St Inode Path
		part := strings.Fields(lines.Text())
		if len(part) != 8 || path.Base(part[7]) != "containerd.sock" {
			continue
		}
		if flags, err := strconv.ParseUint(part[3], 16, 32); err == nil && flags&acceptsConnections != 0 {
			found = append(found, part[6]+" "+part[7])
		}
	}
	slices.Sort(found)
	return string(boot) + strings.Join(found, "\n"), lines.Err()
}
