// Package bounded decodes JSON from untrusted senders and limits how many
// values it creates, because a small document may expand to a lot of memory. It
// imports nothing of the project; everything that reads JSON from others calls
// it.
package bounded

import (
	"encoding/json"
	"fmt"
)

// Unmarshal is json.Unmarshal for a document of at most maxValues values. A limit
// on its bytes alone is none on the memory that it takes: "[1,1,1" makes a struct
// of every second byte. What has more is refused before anything is made of it.
func Unmarshal(data []byte, maxValues int, v any) error {
	if hasMore(data, maxValues) {
		return fmt.Errorf("JSON of more than %d values", maxValues)
	}
	return json.Unmarshal(data, v)
}

// hasMore counts what begins a value or parts it from the one before, outside of
// strings: as many as there are values, or some more.
func hasMore(data []byte, maxValues int) bool {
	inString, escaped, values := false, false, 1
	for _, c := range data {
		switch {
		case escaped:
			escaped = false
		case inString:
			escaped = c == '\\'
			inString = c != '"'
		case c == '"':
			inString = true
		case c == ',' || c == '[' || c == '{':
			if values++; values > maxValues {
				return true
			}
		}
	}
	return false
}
