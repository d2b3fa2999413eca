//go:build race

package transfer

// raceDetector tells that the race detector is on, which makes all some ten
// times slower.
const raceDetector = true
