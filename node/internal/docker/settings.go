package docker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"

	"github.com/tidwall/sjson"
)

// byteOrderMark may stand before the settings: dockerd reads over it since 23.0.
var byteOrderMark = []byte("\xef\xbb\xbf")

// withMirror puts the mirror before the user's own ones. dockerd asks them in
// this order. Settings with which dockerd does not start are refused, so that
// nobody takes the mirror for the cause.
func withMirror(content []byte, mirror string) ([]byte, error) {
	if len(bytes.TrimSpace(content)) == 0 {
		content = []byte("{}\n")
	}
	mirrors, err := mirrorsOf(content)
	if err != nil {
		return nil, fmt.Errorf("%w: correct it first", err)
	}
	for _, m := range mirrors {
		if u, err := url.Parse(m); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("%s has %q, which is no URL of a mirror, and dockerd does not start with it: correct it first", mirrorsKey, m)
		}
	}
	return setMirrors(content, append([]string{mirror}, mirrors...))
}

// setMirrors leaves all but the mirrors as it is, byte for byte.
func setMirrors(content []byte, mirrors []string) (out []byte, err error) {
	settings, marked := bytes.CutPrefix(content, byteOrderMark)
	if len(mirrors) == 0 {
		out, err = sjson.DeleteBytes(settings, mirrorsKey)
	} else {
		out, err = sjson.SetBytes(settings, mirrorsKey, mirrors)
	}
	if err == nil && marked {
		out = append(bytes.Clone(byteOrderMark), out...)
	}
	return out, err
}

func mirrorsOf(content []byte) ([]string, error) {
	content = bytes.TrimPrefix(content, byteOrderMark)
	var settings map[string]json.RawMessage
	if err := json.Unmarshal(content, &settings); err != nil {
		return nil, err
	}
	if err := checkOnce(content); err != nil {
		return nil, err
	}
	var mirrors []string
	if raw, ok := settings[mirrorsKey]; ok {
		if err := json.Unmarshal(raw, &mirrors); err != nil {
			return nil, fmt.Errorf("%s: %w", mirrorsKey, err)
		}
	}
	return mirrors, nil
}

// checkOnce refuses settings that list mirrors twice: dockerd takes the last
// list, and one that was changed before it would count for nothing. content is
// valid.
func checkOnce(content []byte) error {
	d := json.NewDecoder(bytes.NewReader(content))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.New("the settings are no JSON object")
	}
	found := false
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		if key == mirrorsKey && found {
			return fmt.Errorf("%s is there twice, of which dockerd takes the last", mirrorsKey)
		}
		found = found || key == mirrorsKey
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return err
		}
	}
	return nil
}
