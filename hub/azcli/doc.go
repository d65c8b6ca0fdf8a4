// Package azcli holds the proof that the stock Azure CLI takes a hub for Azure:
// its tests start the hub's own program on loopback, over TLS with its own
// authority, and run az against it. They are skipped where az is not installed.
package azcli
