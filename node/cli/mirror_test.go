package cli

import (
	"errors"
	"strings"
	"testing"
)

// A mirror at an address that some clients cannot read is refused: containerd 1.6 goes
// around a mirror that is written as an IPv6 address, however strict it is.
func TestMirrorsThatClientsCanRead(t *testing.T) {
	for mirror, want := range map[string]string{
		"http://127.0.0.1:5001": "", "http://ip6-localhost:5001": "", "https://mirror.example": "",
		"http://[::1]:5001": "ip6-localhost", "https://[fd00:10::7]": "ip6-localhost", "http://[::ffff:127.0.0.1]:5001": "ip6-localhost",
		"127.0.0.1:5001": "127.0.0.1:5001", "http://127.0.0.1:5001/v2": "want the URL",
	} {
		err := checkMirror(mirror)
		if (err == nil) != (want == "") || err != nil && (!errors.Is(err, errUsage) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", mirror, err)
		}
	}
}
