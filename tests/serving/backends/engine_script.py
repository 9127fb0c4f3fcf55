"""Run in the environment of tensorrt-rtx: builds an engine of one relu, for the compute capability
that is named (SM86), and writes it to the file that is named. It needs no GPU."""

import sys

import tensorrt_rtx as trt

capability, path = sys.argv[1:]
log = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(log)
network = builder.create_network()
x = network.add_input("x", trt.float32, (-1, 4))
relu = network.add_activation(x, trt.ActivationType.RELU)
relu.get_output(0).name = "y"
network.mark_output(relu.get_output(0))
config = builder.create_builder_config()
profile = builder.create_optimization_profile()
profile.set_shape("x", (1, 4), (8, 4), (16, 4))
config.add_optimization_profile(profile)
config.num_compute_capabilities = 1
config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
with open(path, "wb") as file:
    file.write(builder.build_serialized_network(network, config))
