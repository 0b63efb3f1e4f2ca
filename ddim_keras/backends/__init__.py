"""Everything that differs by Keras backend, behind one interface.

Each of `tensorflow.py`, `jax.py` and `torch.py` defines these names; those of the backend in use
are imported here:

    Step(model, *arguments)         context manager of one step, made from the arguments that Keras
                                    passes to `train_step` and `test_step`: (data) or (state, data)
      .images, .labels              the batch; labels are None if there are none
      .minimize(compute_losses)     computes gradients and applies the optimizer; returns the losses
                                    to report
      .results(logs)                return value of `train_step` and `test_step`
    compile_denoise(model, method)  `denoise(noisy_images, noise_rates, signal_rates, labels=None)`
                                    of the averaged network, compiled, by default
                                    `model.denoise`; differentiable only with `gradients=True`
    vector_jacobian_product(function, inputs, vector)
                                    `function(inputs)`, and the product of the vector, of the shape
                                    of the outputs, with the Jacobian: of the shape of the inputs
    draw(model, distribution, shape)  random numbers for a batch, float32, from the model's seed;
                                    `distribution` is `keras.random.normal`, for example
    share_of_batch(model)           share of the whole batch in a step: 1 / N under TensorFlow,
                                    where each of N devices runs its own step
    feed(model, batches)            training data for `fit`; `batches()` starts at the first
    local_value(variable)           value of a variable, for computations on this host only
    keep_data(model, images, labels)  copies the training data to the device; `fit` then takes
                                    `data.batches.dispatches`, many steps per call. None for
                                    backends without it
    many_steps_pay(data_bytes)      whether many steps per call are faster, and the data fit
    describe_device()               readable name of the device

Training on several devices and hosts is in `devices.py`.
"""

import importlib

import keras

_backend = importlib.import_module(f"{__name__}.{keras.backend.backend()}")

Step = _backend.Step
compile_denoise = _backend.compile_denoise
describe_device = _backend.describe_device
draw = _backend.draw
feed = _backend.feed
keep_data = _backend.keep_data
local_value = _backend.local_value
many_steps_pay = _backend.many_steps_pay
share_of_batch = _backend.share_of_batch
vector_jacobian_product = _backend.vector_jacobian_product
