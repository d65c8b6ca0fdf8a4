// Package client is a typed client of the hub for Go programs.
package client
