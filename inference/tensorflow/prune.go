package tensorflow

import (
	"strings"

	attrpb "github.com/galeone/tensorflow/tensorflow/go/core/framework/attr_value_go_proto"
	funcpb "github.com/galeone/tensorflow/tensorflow/go/core/framework/function_go_proto"
	nodepb "github.com/galeone/tensorflow/tensorflow/go/core/framework/node_def_go_proto"
	pb "github.com/galeone/tensorflow/tensorflow/go/core/protobuf/for_core_protos_go_proto"
)

const (
	// initSignature names what the library runs once a model's variables are read.
	initSignature = "__saved_model_init_op"
	// assetsCollection is where models of the first format list their files.
	assetsCollection = "saved_model_assets"
)

// prune takes out of a graph what neither a run of the session nor reading its variables needs:
// training, saving, other signatures. The library would check and optimise all of that twice each
// time the model is loaded, which is most of what loading costs.
func prune(g *pb.MetaGraphDef, s *session) {
	if _, first := g.GetCollectionDef()[assetsCollection]; first {
		return
	}
	p := pruner{
		nodes: map[string]*nodepb.NodeDef{}, functions: map[string]*funcpb.FunctionDef{}, gradients: map[string]string{},
		kept: map[string]bool{}, used: map[string]bool{},
	}
	p.index(g.GetGraphDef().GetNode(), g.GetGraphDef().GetLibrary())
	for _, in := range s.inputs {
		p.node(in.operation)
	}
	p.node(s.output.operation)
	p.node(g.GetSaverDef().GetRestoreOpName())
	p.node(g.GetSaverDef().GetFilenameTensorName())
	for _, a := range g.GetAssetFileDef() {
		p.node(a.GetTensorInfo().GetName())
	}
	for _, t := range g.GetSignatureDef()[initSignature].GetOutputs() {
		p.node(t.GetName())
	}
	for _, c := range g.GetCollectionDef() { // such as what to run first
		for _, name := range c.GetNodeList().GetValue() {
			p.node(name)
		}
	}
	p.remove(g.GetGraphDef().GetLibrary())
	var nodes []*nodepb.NodeDef
	for _, n := range g.GetGraphDef().GetNode() {
		if p.kept[n.GetName()] {
			nodes = append(nodes, n)
		}
	}
	g.GraphDef.Node = nodes
}

// pruner finds what is needed.
type pruner struct {
	nodes     map[string]*nodepb.NodeDef
	functions map[string]*funcpb.FunctionDef
	// gradients are by function the one that computes its gradient.
	gradients map[string]string
	// kept are nodes that are needed, used functions.
	kept, used map[string]bool
}

func (p *pruner) index(nodes []*nodepb.NodeDef, l *funcpb.FunctionDefLibrary) {
	for _, n := range nodes {
		p.nodes[n.GetName()] = n
	}
	for _, f := range l.GetFunction() {
		p.functions[f.GetSignature().GetName()] = f
	}
	for _, g := range l.GetGradient() {
		p.gradients[g.GetFunctionName()] = g.GetGradientFunc()
	}
	for name, f := range p.functions {
		// One of several implementations, of which the library chooses without anybody naming it.
		if _, chosen := f.GetAttr()["api_implements"]; chosen {
			p.function(name)
		}
	}
}

// node keeps a node, named as an input names it ("name", "name:1", "^name"), and what it needs.
func (p *pruner) node(name string) {
	pending := []string{name}
	for len(pending) > 0 {
		name = pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		name, _, _ = strings.Cut(strings.TrimPrefix(name, "^"), ":")
		n := p.nodes[name]
		if n == nil || p.kept[name] {
			continue
		}
		p.kept[name] = true
		p.function(n.GetOp())
		p.attributes(n.GetAttr())
		pending = append(pending, n.GetInput()...)
		for _, with := range n.GetAttr()["_class"].GetList().GetS() { // it must run where another one runs
			pending = append(pending, strings.TrimPrefix(string(with), "loc:@"))
		}
	}
}

// function keeps a function, if it is one that the library of the graph has, and those that it
// calls.
func (p *pruner) function(name string) {
	f := p.functions[name]
	if f == nil || p.used[name] {
		return
	}
	p.used[name] = true
	p.function(p.gradients[name])
	p.attributes(f.GetAttr())
	for _, n := range f.GetNodeDef() {
		p.function(n.GetOp())
		p.attributes(n.GetAttr())
	}
}

// attributes keeps the functions that attributes name, be it as text.
func (p *pruner) attributes(all map[string]*attrpb.AttrValue) {
	for _, a := range all {
		p.function(string(a.GetS()))
		for _, text := range a.GetList().GetS() {
			p.function(string(text))
		}
		for _, f := range append(a.GetList().GetFunc(), a.GetFunc()) {
			p.function(f.GetName())
			p.attributes(f.GetAttr())
		}
	}
}

// remove leaves in the library what is used.
func (p *pruner) remove(l *funcpb.FunctionDefLibrary) {
	if l == nil {
		return
	}
	var functions []*funcpb.FunctionDef
	for _, f := range l.Function {
		if p.used[f.GetSignature().GetName()] {
			functions = append(functions, f)
		}
	}
	var gradients []*funcpb.GradientDef
	for _, g := range l.Gradient {
		if p.used[g.GetFunctionName()] {
			gradients = append(gradients, g)
		}
	}
	l.Function, l.Gradient = functions, gradients
}
