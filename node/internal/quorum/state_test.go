package quorum

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestTheRecordIsReadAgain(t *testing.T) {
	s := fresh()
	do(t, &s, State.Stage, stageOf(t, 7, "abc", 0))
	do(t, &s, State.Commit, Commit{signedOf(t, "ab"), rootsOf(t, "abc")})
	do(t, &s, State.Keep, Keep{ballot(7), signedOf(t, "ab"), rootsOf(t, "abc")})
	data, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(s, again) {
		t.Errorf("%+v\nis read as\n%+v", s, again)
	}
	for _, part := range []string{`"format":1,`, `"promised":{"number":7,"id":"start7"}`, `"staged":{"ballot":`, `"serial":3,`, `"w":{"k":2,"members":["m1","m2","m3"]}`, `"proven":{"tree":{"size":2,`} {
		if !strings.Contains(string(data), part) {
			t.Errorf("%s is not in %s: releases before this one cannot read it", part, data)
		}
	}
}

func TestDecodeRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, text := range []string{``, `{}`, `{"format":2,"origin":"a","key":"k","role":"mirror"}`, `{"format":1,"origin":"a","key":"k","role":"other"}`, `{"format":1,"key":"k","role":"mirror"}`} {
		if s, err := Decode([]byte(text)); err == nil {
			t.Errorf("%q is %+v", text, s)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"format":1,"origin":"a","key":"k","role":"mirror","staged":{"config":{"version":1,"next":{"w":{"k":-1}}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Decode(data)
		if err != nil {
			return
		}
		_ = s.Staged.Config.Validate()
		again, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(again); err != nil {
			t.Fatalf("%s is not read again: %v", again, err)
		}
	})
}

// A key without its record, or with an older one, must not sign: it would sign a
// second history as soon as it was shown one.
func TestOpenRefusesALostRecord(t *testing.T) {
	s := fresh()
	do(t, &s, State.Stage, stageOf(t, 1, "ab", 0))
	old := s
	do(t, &s, State.Commit, Commit{signedOf(t, "ab"), rootsOf(t, "ab")})
	for name, c := range map[string]struct {
		state State
		found bool
		key   string
		lost  bool
	}{
		"as it was":            {s, true, "k1", false},
		"gone":                 {State{}, false, "k1", true},
		"of another key":       {s, true, "k2", true},
		"of a restored volume": {old, true, "k1", true},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(c.state, c.found, "example.com/log", c.key, s.Serial)
			if r, _ := errors.AsType[*Refusal](err); c.lost != (err != nil) || c.lost && r.Reason != StateLost {
				t.Errorf("error %v", err)
			}
		})
	}
}
