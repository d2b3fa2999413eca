package clients

// The outcomes of a pull on a platform.
const (
	served       = "served"
	denied       = "refused"
	fallsThrough = "falls through"
)

// What was guessed of each cell before anything had run, in the order of the columns. A
// guess is right if the outcome is its first words, and the text that the user is
// shown contains what is after the colon.
const (
	says       = "refused: is not on the ledger"
	saysGone   = "refused: was withdrawn by the publisher"
	mute       = "refused: 403 Forbidden"
	noPort     = "refused: connection refused"
	cutShort   = "refused: unexpected EOF"
	unreadable = "refused: input/output error"
	plainHTTP  = "refused: server gave HTTP response to HTTPS client"
)

var (
	// Those that ask by HEAD and show no more than the status.
	muteContainerd = []string{served, served, mute, mute, served, noPort, cutShort, served, served, served}
	// Those that ask again by GET after 403.
	saying = []string{served, served, says, saysGone, served, noPort, cutShort, served, served, served}
	// The graph drivers' downloads try again after five seconds, up to five times.
	graphDrivers = []string{served, served, fallsThrough, fallsThrough, served, fallsThrough, served, fallsThrough, fallsThrough, served}
	// They mount a layer before it is there.
	lazily = []string{served, served, says, saysGone, served, noPort, unreadable, served, served, served}
)

var guesses = map[string][]string{
	"containerd 1.6.20, of Debian 12":                      muteContainerd,
	"containerd 1.6.36":                                    muteContainerd,
	"containerd 1.7.35":                                    muteContainerd,
	"containerd 2.0.14":                                    saying,
	"containerd 2.1.9, transfer service":                   muteContainerd,
	"containerd 2.1.9, local pull":                         muteContainerd,
	"containerd 2.2.9, transfer service":                   muteContainerd,
	"containerd 2.2.9, local pull":                         muteContainerd,
	"containerd 2.3.7, transfer service":                   saying,
	"containerd 2.3.7, local pull":                         saying,
	"containerd 2.4.2, transfer service":                   saying,
	"containerd 2.4.2, local pull":                         saying,
	"dockerd 29, containerd store":                         saying,
	"dockerd 29, graph drivers":                            graphDrivers,
	"dockerd 20.10.24":                                     graphDrivers,
	"podman 4.3.1":                                         {served, served, says, saysGone, served, noPort, served, served, served, plainHTTP},
	"skopeo 1.9.3":                                         {served, served, says, saysGone, served, noPort, cutShort, served, served, plainHTTP},
	"containers/image 5.42.1":                              {served, served, says, saysGone, served, noPort, served, served, served, plainHTTP},
	"buildkitd 0.34.2, mirrors":                            {served, served, fallsThrough, fallsThrough, served, fallsThrough, fallsThrough, fallsThrough, served, served},
	"buildkitd 0.34.2, source policy":                      {served, served, "refused: not found", saysGone, served, noPort, served, served, served, served},
	"stargz-snapshotter 0.19.1, resolver":                  lazily,
	"stargz-snapshotter 0.19.1, config_path":               lazily,
	"dockerd 29, containerd store, registry-mirrors alone": {served, served, fallsThrough, fallsThrough, served, fallsThrough, fallsThrough, fallsThrough, fallsThrough, served},
}

// truth is what was true where a guess was wrong.
type truth struct {
	column    string
	platforms []string
	text      string
}

var truths = []truth{
	{afterCut, []string{"stargz-snapshotter 0.19.1, resolver"}, "Its own client asks again, five times by default, which that of `config_path` does not."},
	{afterCut, []string{"podman 4.3.1"}, "It does not try again when a layer ends too early."},
	{afterCut, []string{"containers/image 5.42.1"}, "It tries again once, after a second: enough for a mirror that is back by then."},
	{"by the mirror's name", []string{"containers/image 5.42.1", "podman 4.3.1", "skopeo 1.9.3"}, "It was so when it ran first, for these ask for TLS; since then `pyrsia registries install` names the mirror as a registry without."},
}
