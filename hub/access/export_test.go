package access

import "slices"

// Entries are the lines of the table, as "METHOD kind [name] [verb v]".
func (a *Access) Entries() []string {
	var all []string
	for key := range a.table() {
		all = append(all, key)
	}
	slices.Sort(all)
	return all
}
