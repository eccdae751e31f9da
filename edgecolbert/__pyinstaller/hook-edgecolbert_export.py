"""The export pipeline comes along for its list of models; what makes models does not, even where it is installed."""

# "onnxruntime.quantization" brings onnx with it.
excludedimports = [
    "onnx",
    "onnxruntime.quantization",
    "onnxscript",
    "optimum",
    "pylate",
    "safetensors",
    "sentence_transformers",
    "torch",
    "transformers",
]
