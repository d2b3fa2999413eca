//go:build race

package p2p

// raceDetector tells that the race detector is on.
const raceDetector = true
