// Package cli holds the commands of headwater, one file per verb.
package cli
