// Package cli is the user's command line, "headwater". Its commands and flags
// are those of az for connectedk8s, k8s-extension and k8s-configuration, so that
// who knows the one knows the other. Commands are constructors; each has its own
// options.
package cli
