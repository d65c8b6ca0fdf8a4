// Package resource holds the hub's resources in their one current shape.
//
// JSON names are those of the newest stable wire version; dated wire versions
// live in the folders below and are conversions, nothing else. A record of the
// hub has two parts: Desired, written only by the users' door, and an Observed
// part, written only by the agents' door. Nothing here does I/O.
package resource
