package p2ptest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multihash"
	"google.golang.org/protobuf/proto"
)

// misbehave answers every request of a node in one bad way.
func misbehave(kind string, w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost && kind != "endless" {
		want, _ := io.ReadAll(r.Body)
		for i := range 8 * len(want) {
			if want[i/8]>>(i%8)&1 == 1 { // it has every piece, so it says
				fmt.Fprintf(w, `{"piece":%d}`, i)
				return
			}
		}
		return
	}
	length := int64(4 << 20)
	code := http.StatusOK
	if first, last, ok := strings.Cut(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-"); ok {
		a, _ := strconv.ParseInt(first, 10, 64)
		b, _ := strconv.ParseInt(last, 10, 64)
		length, code = b-a+1, http.StatusPartialContent
	}
	switch kind {
	case "wrong":
		w.Header().Set("Content-Length", strconv.FormatInt(length, 10))
		w.WriteHeader(code)
		_, _ = io.CopyN(w, rand.Reader, length)
	case "short":
		w.Header().Set("Content-Length", strconv.FormatInt(length, 10))
		w.WriteHeader(code)
		_, _ = io.CopyN(w, rand.Reader, length/2)
		panic(http.ErrAbortHandler)
	case "endless":
		w.WriteHeader(code)
		_, _ = io.Copy(w, rand.Reader)
	case "slow":
		w.Header().Set("Content-Length", strconv.FormatInt(length, 10))
		w.WriteHeader(code)
		for range length {
			if _, err := w.Write([]byte{0}); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			time.Sleep(time.Second)
		}
	default: // it lied, or is of another network
		http.Error(w, "no", http.StatusNotFound)
	}
}

// flood opens as many connections as it gets, to each port of the victim.
func flood(ctx context.Context, s hostileSettings) error {
	info, err := peer.AddrInfoFromString(s.Bootstrap[0])
	if err != nil {
		return err
	}
	hostname, _, err := net.SplitHostPort(s.OpenAddr)
	if err != nil {
		return err
	}
	targets := []string{s.OpenAddr, net.JoinHostPort(hostname, "4001"), net.JoinHostPort(hostname, "5000")}
	var held []net.Conn
	for i := range 6000 {
		c, err := net.DialTimeout("tcp", targets[i%len(targets)], time.Second)
		if err == nil {
			_, _ = c.Write([]byte("GET / HTTP/1.1\r\n")) // and never the rest
			held = append(held, c)
		}
	}
	var hosts []host.Host
	for range 300 {
		h, err := libp2p.New(libp2p.NoListenAddrs, libp2p.ResourceManager(nil))
		if err != nil {
			return err
		}
		dial, cancel := context.WithTimeout(ctx, time.Second)
		_ = h.Connect(dial, *info) // being refused is the point
		cancel()
		hosts = append(hosts, h)
	}
	fmt.Println("ready", len(held), len(hosts))
	select {}
}

// bogusRecords claims 10,000 keys for itself, and the test's artifact for a
// hundred identities that cannot be reached.
func bogusRecords(ctx context.Context, s hostileSettings) error {
	sum := sha256.Sum256([]byte(s.Network))
	prefix := protocol.ID("/pyrsia/" + hex.EncodeToString(sum[:8]))
	key, err := multihash.FromHexString("1220" + s.List.Encoded())
	if err != nil {
		return err
	}
	for i := range 101 {
		h, err := libp2p.New(libp2p.NoListenAddrs)
		if err != nil {
			return err
		}
		for _, target := range s.Bootstrap {
			info, err := peer.AddrInfoFromString(target)
			if err != nil {
				return err
			}
			// It speaks the network's protocol, so that it is not sent away.
			h.SetStreamHandler(prefix+"/http/1", func(s network.Stream) { _ = s.Reset() })
			if h.Connect(ctx, *info) != nil {
				continue // the node has had enough connections from here
			}
			claims := [][]byte{key}
			if i == 0 {
				for n := range 10_000 {
					sum := sha256.Sum256(fmt.Append(nil, n))
					claim, err := multihash.Encode(sum[:], multihash.SHA2_256)
					if err != nil {
						return err
					}
					claims = append(claims, claim)
				}
			}
			if err := claim(ctx, h, info.ID, prefix+"/kad/1.0.0", claims); err != nil {
				return err
			}
		}
	}
	fmt.Println("ready")
	select {}
}

// claim sends ADD_PROVIDER messages with an unused address.
func claim(ctx context.Context, h host.Host, to peer.ID, kad protocol.ID, keys [][]byte) error {
	stream, err := h.NewStream(ctx, to, kad)
	if err != nil {
		return err
	}
	defer stream.Close()
	nowhere := multiaddr.StringCast("/ip4/203.0.113.7/tcp/4001")
	for _, key := range keys {
		m := pb.NewMessage(pb.Message_ADD_PROVIDER, key, 0)
		m.ProviderPeers = pb.RawPeerInfosToPBPeers([]peer.AddrInfo{{ID: h.ID(), Addrs: []multiaddr.Multiaddr{nowhere}}})
		data, err := proto.Marshal(m)
		if err != nil {
			return err
		}
		if _, err := stream.Write(append(binary.AppendUvarint(nil, uint64(len(data))), data...)); err != nil {
			return nil // cut off: the node defends itself
		}
	}
	return nil
}

// oversize sends each protocol messages that are too large or make no sense.
func oversize(ctx context.Context, s hostileSettings) error {
	info, err := peer.AddrInfoFromString(s.Bootstrap[0])
	if err != nil {
		return err
	}
	h, err := libp2p.New(libp2p.NoListenAddrs)
	if err != nil {
		return err
	}
	if err := h.Connect(ctx, *info); err != nil {
		return err
	}
	protocols, err := h.Peerstore().GetProtocols(info.ID)
	if err != nil {
		return err
	}
	huge := append([]byte("POST /pieces/sha256/00 HTTP/1.1\r\nContent-Length: 999999999\r\nHost: "), make([]byte, 1<<20)...)
	for range 20 {
		for _, p := range protocols {
			for _, begin := range [][]byte{{0xff, 0xff, 0xff, 0x7f}, huge} { // a length of 256 MiB
				send(ctx, h, info.ID, p, begin)
			}
		}
		if h.Connect(ctx, *info) != nil {
			break // sent away
		}
	}
	fmt.Println("ready", len(protocols))
	select {}
}

func send(ctx context.Context, h host.Host, id peer.ID, p protocol.ID, begin []byte) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	stream, err := h.NewStream(ctx, id, p)
	if err != nil {
		return
	}
	_ = stream.SetDeadline(time.Now().Add(time.Second))
	if _, err := stream.Write(begin); err == nil {
		_, _ = io.CopyN(stream, rand.Reader, 8<<20)
	}
	_ = stream.Reset()
}
