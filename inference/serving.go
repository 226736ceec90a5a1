package inference

// Serving returns the contracts of the versions that serve on the device, in order of name.
// The caller must not change them.
func (d *Device) Serving() []*Contract {
	all := make([]*Contract, len(d.loaded.models))
	for i, s := range d.loaded.models {
		all[i] = s.contract
	}
	return all
}
