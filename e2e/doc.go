// Package e2e tells whole stories about Headwater: one file of testdata each, on
// one system with everything real but the node.
package e2e
