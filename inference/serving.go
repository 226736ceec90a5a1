package inference

// Serving returns the contracts of the versions that serve on the device, in order of name, and
// of one model the champion first. The caller must not change them.
func (d *Device) Serving() []*Contract {
	set := d.loaded.Load()
	all := make([]*Contract, len(set.models))
	for i, s := range set.models {
		all[i] = s.contract
	}
	return all
}
