package messages

import "fmt"

// Rollout is what is decided about the versions of one model, as a store keeps it.
type Rollout struct {
	Model string
	// Generation counts its changes, from 1 on.
	Generation uint64
	Body       []byte
}

// GenerationError says that what was to be changed has changed meanwhile: read it again.
type GenerationError struct {
	What string
	// Want is the generation that was to be replaced, Have the one that is there; 0 is none.
	Want, Have uint64
}

func (e *GenerationError) Error() string {
	return fmt.Sprintf("generation: %s is at %d, not %d", e.What, e.Have, e.Want)
}
