package attacks

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/opencontainers/go-digest"
)

// figures are what the floods did to one program.
type figures struct {
	idlePosts  int           // that are open after 45 s
	slowMemory int           // MiB under 1,500 clients that read nothing
	delay      time.Duration // the longest of a block among 48 peers that hang
	handedOn   int           // of 6,000 variants of one checkpoint
	variantCPU time.Duration
	unknownCPU time.Duration // of each question after the first for an unknown digest
	wrongBytes int           // by If-Range
}

// Attackers that can reach a mirror's open ports flood it, and attackers that
// can connect to it as peers hang, lie and repeat themselves. The mirror goes
// on. With PYRSIA_OLD_BINARY the same is done to that program first, to
// compare.
func TestFloods(t *testing.T) {
	gate(t)
	binary := os.Getenv("PYRSIA_BINARY")
	if binary == "" {
		missing(t, "PYRSIA_BINARY does not name the program pyrsia: run 'make test-attacks'")
	}
	var before *figures
	if old := os.Getenv("PYRSIA_OLD_BINARY"); old != "" {
		t.Run("before", func(t *testing.T) { before = flood(t, old) })
	}
	var after *figures
	t.Run("after", func(t *testing.T) { after = flood(t, binary) })
	if after == nil {
		return // it has said why
	}
	t.Log("\n" + table(before, after))
	for what, broken := range map[string]bool{
		"posts whose bodies never come stay open":                after.idlePosts > 0,
		"clients that read nothing take too much memory":         after.slowMemory > 256,
		"peers that hang delay a block by more than 5 s":         after.delay > 5*time.Second,
		"more than one variant of a checkpoint is handed on":     after.handedOn > 1,
		"an unknown digest costs more than 5 ms the second time": after.unknownCPU > 5*time.Millisecond,
		"wrong bytes are sent":                                   after.wrongBytes > 0,
	} {
		if broken {
			t.Error(what)
		}
	}
}

func table(before, after *figures) string {
	var out strings.Builder
	tw := tabwriter.NewWriter(&out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "FLOOD\tBEFORE\tAFTER")
	row := func(what string, figure func(*figures) any) {
		old := any("-")
		if before != nil {
			old = figure(before)
		}
		fmt.Fprintf(tw, "%s\t%v\t%v\n", what, old, figure(after))
	}
	row("2,000 posts without a body, open after 45 s", func(f *figures) any { return f.idlePosts })
	row("memory under 1,500 clients that read nothing, MiB", func(f *figures) any { return f.slowMemory })
	row("delay of a block among 48 peers that hang, longest of 3", func(f *figures) any { return f.delay.Round(10 * time.Millisecond) })
	row("6,000 variants of one checkpoint: looked at and handed on", func(f *figures) any { return f.handedOn })
	row("6,000 variants of one checkpoint: CPU", func(f *figures) any { return f.variantCPU })
	row("an unknown digest, each time after the first: CPU", func(f *figures) any { return f.unknownCPU })
	row("wrong bytes by If-Range, of 50,331,648", func(f *figures) any { return f.wrongBytes })
	_ = tw.Flush() // to memory
	return out.String()
}

// flood does all to one program.
func flood(t *testing.T, program string) *figures {
	s, f := newScene(t, program), new(figures)
	t.Logf("A mirror follows a ledger of %d blocks.", floodBlocks)
	f.wrongBytes = s.ifRange()
	f.unknownCPU = s.unknownDigest()
	f.handedOn, f.variantCPU = s.variants()
	f.slowMemory = s.slowReaders()
	f.idlePosts = s.idlePosts()
	f.delay = s.hangingPeers()
	if err := s.victim.AwaitReady(t.Context()); err != nil {
		t.Errorf("the mirror after all that: %v", err)
	}
	return f
}

// ifRange asks for a blob that the mirror is fetching.
func (s *scene) ifRange() (wrong int) {
	s.t.Log("A client pulls a layer of 48 MiB. While it is on its way to the mirror, a peer asks the mirror for its first piece, if it is still another content.")
	resp, err := http.Get("http://" + s.victim.Mirror + "/v2/library/app/blobs/" + s.big.String())
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.CopyN(io.Discard, resp.Body, pieceSize); err != nil {
		s.t.Fatal(err)
	}
	code, body := s.ask(s.t.Context(), "http://"+s.victim.Open+"/blobs/sha256/"+s.big.Encoded(), "Range", "bytes=0-4194303", "If-Range", `"other"`)
	if code == http.StatusOK {
		for i, b := range s.blobs[s.big.Encoded()][:len(body)] {
			if body[i] != b {
				wrong++
			}
		}
	}
	s.t.Logf("The mirror answers %d with %d bytes, %d of them wrong.", code, len(body), wrong)
	return wrong
}

// unknownDigest asks again and again for a layer that is in no image.
func (s *scene) unknownDigest() time.Duration {
	s.t.Logf("A client asks for a digest that no image has, in a repository of %d blocks. Then it asks 20 times more.", appBlocks)
	url := "http://" + s.victim.Mirror + "/v2/library/app/blobs/" + digest.FromString("nothing").String()
	for range 4 { // until all piece lists are there
		s.ask(s.t.Context(), url)
	}
	began := s.cpu()
	const times = 20
	for range times {
		if code, _ := s.ask(s.t.Context(), url); code != http.StatusNotFound {
			s.t.Errorf("an unknown digest: %d", code)
		}
	}
	each := (s.cpu() - began) / times
	s.t.Logf("Each time costs the mirror %s.", each)
	return each
}

// variants gossips one checkpoint in many forms.
func (s *scene) variants() (handedOn int, cost time.Duration) {
	const n = 6000
	s.t.Logf("A peer gossips %d variants of the newest checkpoint: each has junk for a witness's signature.", n)
	quiet := http.NotFoundHandler()
	flooder, listener := s.topic(s.join(quiet)), s.topic(s.join(quiet))
	heard, err := listener.Subscribe(pubsub.WithBufferSize(2 * n))
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := flooder.Subscribe(); err != nil {
		s.t.Fatal(err)
	}
	s.await(20*time.Second, "the gossip has no neighbours", func() bool { return len(flooder.ListPeers()) > 0 && len(listener.ListPeers()) > 0 })
	time.Sleep(2 * time.Second) // the mesh has formed
	head, _ := s.ledger.Head()
	began := s.cpu()
	for i := range n {
		junk := fmt.Sprintf("— witness.example %s\n", base64.StdEncoding.EncodeToString(fmt.Append(nil, "a signature ", i)))
		if err := flooder.Publish(s.t.Context(), append(head.Signed[:len(head.Signed):len(head.Signed)], junk...)); err != nil {
			s.t.Fatal(err)
		}
		if i%100 == 99 {
			time.Sleep(50 * time.Millisecond) // so that no queue is full
		}
	}
	time.Sleep(5 * time.Second)
	cost = s.cpu() - began
	for {
		ctx, cancel := contextFor(s.t, 100*time.Millisecond)
		_, err := heard.Next(ctx)
		cancel()
		if err != nil {
			break
		}
		handedOn++
	}
	s.t.Logf("The mirror has handed %d of them on, and computed for %s.", handedOn, cost)
	return handedOn, cost
}

// slowReaders ask for as much of the ledger as there is, and read nothing.
func (s *scene) slowReaders() (most int) {
	const n = 1500
	s.t.Logf("%d clients ask for 1,024 entries each and read nothing.", n)
	var held []net.Conn
	for i := range n {
		c, err := (&net.Dialer{Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 4, byte(i%4))}}).DialContext(s.t.Context(), "tcp", s.victim.Open)
		if err != nil {
			continue
		}
		_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
		_, _ = fmt.Fprintf(c, "GET /api/v1/entries/%d?n=1024 HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n", i%128) // it may be refused
		held = append(held, c)
	}
	for range 40 {
		most = max(most, s.memory())
		time.Sleep(250 * time.Millisecond)
	}
	code, _ := s.ask(s.t.Context(), "http://"+s.victim.Open+"/api/v1/blocks/0")
	s.t.Logf("The mirror takes %d MiB, and answers others with %d.", most, code)
	for _, c := range held {
		_ = c.Close()
	}
	return most
}

// idlePosts begin to send and never do.
func (s *scene) idlePosts() (open int) {
	const n = 2000
	s.t.Logf("%d clients post a body that never comes.", n)
	var held []net.Conn
	for i := range n {
		c, err := (&net.Dialer{Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 5, byte(i%8))}}).DialContext(s.t.Context(), "tcp", s.victim.Open)
		if err != nil {
			continue
		}
		_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n") // it may be refused
		held = append(held, c)
	}
	time.Sleep(45 * time.Second)
	for _, c := range held {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		n, err := io.Copy(io.Discard, c)
		if errors.Is(err, os.ErrDeadlineExceeded) && n == 0 { // one that was answered is being closed
			open++
		}
		_ = c.Close()
	}
	s.t.Logf("After 45 s %d of them are open.", open)
	return open
}

// hangingPeers connect, take questions and do not answer: half of them any,
// half of them those for more than the newest checkpoint.
func (s *scene) hangingPeers() (longest time.Duration) {
	s.t.Log("48 peers connect that hang: half at once, half after they have shown the newest checkpoint.")
	for i := range 48 {
		s.join(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if head, ok := s.ledger.Head(); ok && i%2 == 0 && r.URL.Path == "/checkpoint" {
				_, _ = w.Write(head.Signed)
				return
			}
			<-r.Context().Done()
		}))
	}
	time.Sleep(15 * time.Second)
	for i := range 3 {
		manifest := s.keep(fmt.Append(nil, "late ", i))
		height, err := s.ledger.Append(s.t.Context(), s.entry(fmt.Sprint("docker.io/library/late:", i), manifest, manifest))
		if err != nil {
			s.t.Fatal(err)
		}
		began := time.Now()
		head, _ := s.ledger.Head()
		if err := s.gossip.Publish(s.t.Context(), head.Signed); err != nil {
			s.t.Fatal(err)
		}
		s.await(5*time.Minute, "the block never came", func() bool { return s.has(height) })
		took := time.Since(began)
		s.t.Logf("A block arrives after %s.", took.Round(10*time.Millisecond))
		longest = max(longest, took)
		time.Sleep(5 * time.Second)
	}
	return longest
}
