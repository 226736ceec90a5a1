package node

import (
	"slices"

	"footfall/actors"
	"footfall/messages/footfallv1"
	"footfall/node/api"
)

// mostSegments bounds the numbers that a segment may have to be counted.
const mostSegments = 32

// meaning tells what the values of a version are, as far as this node knows the version: segments
// where their numbers have names, else probabilities.
func meaning(models api.Models) func(model, version string) actors.Meaning {
	if models == nil {
		return nil
	}
	return func(model, version string) actors.Meaning {
		m := actors.Meaning{Segments: map[int]string{}}
		for id := range mostSegments {
			if name := models.Segment(model, version, float32(id)); name != "" {
				m.Segments[id] = name
			}
		}
		m.Probability = len(m.Segments) == 0 && slices.ContainsFunc(models.List(), func(known *footfallv1.Model) bool {
			return known.GetName() == model && slices.ContainsFunc(known.GetVersions(), func(v *footfallv1.ModelVersion) bool { return v.GetVersion() == version })
		})
		return m
	}
}
