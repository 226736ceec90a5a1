package main

// The node alone knows the object stores of clouds: their libraries are large.
import _ "footfall/inference/modelstore/clouds"
