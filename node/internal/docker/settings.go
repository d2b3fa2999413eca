package docker

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// settings are those of a daemon.json: its JSON, and how the file has it.
type settings struct {
	json []byte
	// mark is the byte order mark by which dockerd, since 23.0, tells the encoding.
	mark  []byte
	order byteOrder // of UTF-16; nil: it is UTF-8
}

type byteOrder interface {
	binary.ByteOrder
	binary.AppendByteOrder
}

var (
	markUTF8    = []byte("\xef\xbb\xbf")
	markUTF16LE = []byte("\xff\xfe")
	markUTF16BE = []byte("\xfe\xff")
)

// decode reads a file as dockerd does: one without a mark is UTF-8, and one of
// white space alone has no settings.
func decode(content []byte) (s settings, err error) {
	rest := content
	for _, m := range []struct {
		mark  []byte
		order byteOrder
	}{{markUTF8, nil}, {markUTF16LE, binary.LittleEndian}, {markUTF16BE, binary.BigEndian}} {
		if after, ok := bytes.CutPrefix(content, m.mark); ok {
			s.mark, s.order, rest = m.mark, m.order, after
		}
	}
	s.json = rest
	if s.order != nil {
		var units []uint16
		for pair := range slices.Chunk(rest, 2) {
			if len(pair) < 2 {
				return s, errors.New("its UTF-16 ends in the middle of a character")
			}
			units = append(units, s.order.Uint16(pair))
		}
		s.json = []byte(string(utf16.Decode(units)))
		if !bytes.Equal(s.encode(), content) {
			return s, errors.New("it is not valid UTF-16")
		}
	}
	if !utf8.Valid(s.json) {
		return s, errors.New("it is not valid UTF-8")
	}
	if len(bytes.TrimSpace(s.json)) == 0 {
		s.json = []byte("{}\n")
	}
	return s, nil
}

// encode gives the file as decode found it.
func (s settings) encode() []byte {
	out := bytes.Clone(s.mark)
	if s.order == nil {
		return append(out, s.json...)
	}
	for _, unit := range utf16.Encode([]rune(string(s.json))) {
		out = s.order.AppendUint16(out, unit)
	}
	return out
}

// withMirror puts the mirror before the user's own ones. dockerd asks them in
// this order. Settings with which dockerd does not start are refused, so that
// the mirror is not mistaken for the cause.
func withMirror(content []byte, mirror string) ([]byte, error) {
	mirrors, err := mirrorsOf(content)
	if err != nil {
		return nil, fmt.Errorf("%w: correct it first", err)
	}
	for _, m := range mirrors {
		u, err := url.Parse(m)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("%s has %q, which is no URL of a mirror, and dockerd does not start with it: correct it first", mirrorsKey, Shown(m))
		}
	}
	return setMirrors(content, append([]string{mirror}, mirrors...))
}

// Shown is a mirror's URL as it may be printed: without a password.
func Shown(mirror string) string {
	if at := strings.LastIndexByte(mirror, '@'); at >= 0 {
		return "..." + mirror[at:]
	}
	return mirror
}

// setMirrors leaves all but the mirrors as it is, byte for byte. An empty list
// says that there are none, which no list does not: see Uninstall.
func setMirrors(content []byte, mirrors []string) ([]byte, error) {
	s, err := decode(content)
	if err != nil {
		return nil, err
	}
	list, err := json.Marshal(append([]string{}, mirrors...))
	if err != nil {
		return nil, err
	}
	at, err := find(s.json)
	if err != nil {
		return nil, err
	}
	if at.value == nil {
		list = fmt.Appendf(nil, "%s%q:%s", at.comma, mirrorsKey, list)
	}
	s.json = slices.Concat(s.json[:at.from], list, s.json[at.to:])
	return s.encode(), nil
}

// mirrorsOf are the mirrors in a daemon.json.
func mirrorsOf(content []byte) ([]string, error) {
	s, err := decode(content)
	if err != nil {
		return nil, err
	}
	at, err := find(s.json)
	if err != nil || at.value == nil {
		return nil, err
	}
	var mirrors []string
	if err := json.Unmarshal(at.value, &mirrors); err != nil {
		return nil, fmt.Errorf("%s: %w", mirrorsKey, err)
	}
	return mirrors, nil
}

// hasMirrors tells whether settings say anything of mirrors.
func hasMirrors(content []byte) bool {
	s, err := decode(content)
	if err != nil {
		return false
	}
	at, err := find(s.json)
	return err == nil && at.value != nil
}

// place is where the list of mirrors is, or belongs.
type place struct {
	from, to int
	value    json.RawMessage // nil: there is none
	comma    string          // before a new one
}

// find finds the list that dockerd takes: of several the last, as Go's decoder does.
func find(settings []byte) (at place, err error) {
	var whole map[string]json.RawMessage
	if err := json.Unmarshal(settings, &whole); err != nil {
		return at, err
	}
	if whole == nil {
		return at, errors.New("the settings are no JSON object")
	}
	d := json.NewDecoder(bytes.NewReader(settings)) // of what is valid
	if _, err := d.Token(); err != nil {
		return at, err
	}
	at.from, at.to = int(d.InputOffset()), int(d.InputOffset())
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return at, err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return at, err
		}
		end := int(d.InputOffset())
		switch {
		case key == mirrorsKey:
			at = place{end - len(value), end, value, ""}
		case at.value == nil: // a new one would come here
			at = place{end, end, nil, ","}
		}
	}
	return at, nil
}

// imageStoreOf is the image store that settings choose; empty if they choose none.
func imageStoreOf(content []byte) string {
	s, err := decode(content)
	if err != nil {
		return ""
	}
	var chosen struct {
		Features map[string]bool `json:"features"`
	}
	if err := json.Unmarshal(s.json, &chosen); err != nil {
		return ""
	}
	switch enabled, ok := chosen.Features["containerd-snapshotter"]; {
	case !ok:
		return ""
	case enabled:
		return StoreContainerd
	}
	return StoreGraphDriver
}
