package testnet

import "fmt"

// NAT is how a router gives the connections of the hosts behind it ports.
type NAT string

const (
	// Preserving keeps a connection's port where it can: others can tell from
	// one connection where the next is coming from, and a hole can be punched.
	Preserving NAT = "masquerade"
	// Symmetric gives each connection a port at random.
	Symmetric NAT = "masquerade random"
)

// BehindNAT adds a host with a private address behind a router of its own,
// which lets nothing in that was not asked for. The test program alone reaches
// the host all the same: at its IP, over a link beside the network.
func (n *Network) BehindNAT(name string, nat NAT) (*Host, error) {
	router, err := n.Host(name + "-router")
	if err != nil {
		return nil, err
	}
	h, err := n.machine(name)
	if err != nil {
		return nil, err
	}
	h.IP = fmt.Sprintf("10.77.%d.%d", n.number, h.number)
	beside := fmt.Sprintf("10.78.%d.%d", n.number, h.number)
	err = run("ip", "link", "add", "lan", "netns", router.pid(), "type", "veth", "peer", "name", "eth0", "netns", h.pid(), ";",
		"ip", "link", "add", h.port(), "type", "veth", "peer", "name", "beside", "netns", h.pid(), ";",
		"ip", "address", "add", beside, "peer", h.IP, "dev", h.port(), ";", "ip", "link", "set", h.port(), "up")
	if err != nil {
		return nil, err
	}
	if err := h.run("ip", "address", "add", "192.168.7.2/24", "dev", "eth0", ";", "ip", "link", "set", "eth0", "up", ";",
		"ip", "route", "add", "default", "via", "192.168.7.1", ";",
		"ip", "address", "add", h.IP, "peer", beside, "dev", "beside", ";", "ip", "link", "set", "beside", "up"); err != nil {
		return nil, err
	}
	rules := fmt.Sprintf(`table inet nat {
		chain out { type nat hook postrouting priority srcnat; oifname eth0 %s; }
		chain in { type filter hook input priority filter; iifname eth0 ct state new drop; }
		chain through { type filter hook forward priority filter; iifname eth0 ct state new drop; }
	}`, nat)
	return h, router.run("ip", "address", "add", "192.168.7.1/24", "dev", "lan", ";", "ip", "link", "set", "lan", "up", ";",
		"echo", "1", ">/proc/sys/net/ipv4/ip_forward", ";", "nft", "'"+rules+"'")
}
