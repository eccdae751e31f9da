"""The export pipeline: a ColBERT checkpoint in, a model folder that the runtime trusts out.

`pipeline.export_model` runs it from Python, `edgecolbert export` from the command line. It needs the extra
`edgecolbert[export]`; the runtime needs none of it.
"""

from edgecolbert.sessions import forbid_telemetry

# Modules of the pipeline import onnxruntime at their top.
forbid_telemetry()
