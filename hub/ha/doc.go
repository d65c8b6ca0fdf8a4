// Package ha holds no code, only tests of high availability: three hub processes
// over three etcd processes, on addresses of their own, of which any one is
// killed, paused or cut off from everybody else while users write and agents
// work.
//
// What must hold: no acknowledged write is lost, no operation stays open, users
// see at most errors that say "try again", and the service goes on while one
// process is missing.
package ha
