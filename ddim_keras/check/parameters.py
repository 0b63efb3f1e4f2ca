"""Parameters of a student's function, matched to arguments by name or position."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ddim_keras.check.source import plain

# For each gap, the arguments in the order of the assignment, with alternative names.
ARGUMENTS: dict[str, dict[str, str]] = {
    "diffusion_schedule": {
        "times": "diffusiontimes diffusiontime times time t tau u ts timesteps timestep",
    },
    "denoise": {
        "noisy_images": "noisyimages noisyimage noisy images image x xt xnoisy noisyx z inputs",
        "noise_rates": "noiserates noiserate nr noiser sigma sigmas noiselevel noiselevels beta",
        "signal_rates": "signalrates signalrate sr signalr alpha alphas signallevel signallevels",
        "training": "training train istraining trainmode",
    },
    "reverse_diffusion": {
        "initial_noise": "initialnoise initialnoises noise noises x xt z initnoise startnoise "
        "latent latents start",
        "diffusion_steps": "diffusionsteps diffusionstep steps numsteps nsteps t n timesteps "
        "numdiffusionsteps samplingsteps numtimesteps",
    },
    "train_step": {
        "images": "images image x x0 batch data imgs batchimages realimages inputs",
    },
    "sample_xt": {
        "x0": "x0 x images image xstart x0s imgs",
        "t": "t ts timestep timesteps step steps times time",
        "epsilon": "epsilon eps noise noises e eta epsilons",
        "alpha_bars": "alphabars alphabar alphasbar alphascumprod alphabart alphahat alphahats",
    },
    "sample": {
        "ddpm": "ddpm model diffusion network net self unet",
        "n_samples": "nsamples numsamples n samples numimages nimages count batchsize",
        "classes": "classes labels y classlabels cls label",
    },
    "train": {
        "ddpm": "ddpm model diffusion network net self unet",
        "loader": "loader dataloader trainloader traindataloader dl data dataset batches",
        "n_epochs": "nepochs epochs numepochs epoch",
        "optim": "optim optimizer optimiser opt",
        "device": "device dev",
    },
}
ARGUMENTS["train_classconditional"] = ARGUMENTS["train"]
# Arguments that any function may take beside these.
COMMON = {
    "network": "network model unet net denoiser diffusionmodel ddim diffusion self epsmodel "
    "modelfn applyfn noisepredictor backbone noisenet",
    "ema_network": "emanetwork emamodel emanet ema emaunet averagemodel averagednetwork",
    "denoise": "denoise denoisefn denoiser denoisefunction",
    "schedule": "diffusionschedule schedule schedulefn diffusionschedulefn noiseschedule "
    "schedulefunction scheduler",
    "min_signal_rate": "minsignalrate minsignal minrate minsr",
    "max_signal_rate": "maxsignalrate maxsignal maxrate maxsr",
    "device": "device dev",
    "key": "key rng prngkey rngkey",
    "params": "params parameters variables weights emaparams",
    "optimizer": "optimizer optimiser optim opt",
    "loss_fn": "lossfn lossfunction criterion loss mse",
    "ema_decay": "emadecay decay momentum emarate emamomentum",
    "normalizer": "normalizer normaliser",
    "num_images": "numimages batchsize",
    "labels": "labels label y classes context c classlabels",
    "image_size": "imagesize imgsize size",
}
# Arguments whose default, if any, is the student's choice.
DEFAULTS_KEPT = {
    "min_signal_rate",
    "max_signal_rate",
    "ema_decay",
    "image_size",
    "device",
    "loss_fn",
}


class CannotCall(Exception):
    """A function has an unknown parameter."""


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a function, even if wrapped by `tf.function`."""
    inner = getattr(function, "python_function", None)
    if inner is None:
        return inspect.signature(function)
    signature = inspect.signature(inner)
    parameters = list(signature.parameters.values())
    is_bound = parameters and parameters[0].name == "self"
    return signature.replace(parameters=parameters[1:] if is_bound else parameters)


def roles(function: Callable[..., Any], gap: str) -> dict[str, str]:
    """The argument of each parameter of a function; unknown parameters are absent.

    Names decide. Required parameters with other names get the remaining arguments in order.
    """
    parameters = [
        parameter
        for parameter in signature_of(function).parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    wanted = ARGUMENTS[gap]
    found: dict[str, str] = {}
    for table in (wanted, COMMON):
        for parameter in parameters:
            if parameter.name in found:
                continue
            for role, names in table.items():
                if role not in found.values() and plain(parameter.name) in names.split():
                    found[parameter.name] = role
                    break
    unknown = [
        parameter.name
        for parameter in parameters
        if parameter.name not in found and parameter.default is parameter.empty
    ]
    left = [role for role in wanted if role not in found.values()]
    if len(unknown) == len(left) + 1 and "network" not in found.values():
        left = ["network", *left]
    return {**found, **dict(zip(unknown, left, strict=False))}


def call(function: Callable[..., Any], gap: str, values: Mapping[str, Any]) -> Any:
    """Calls a function with arguments by their meaning.

    Args:
        gap: the corresponding function of the assignment.
        values: by the names in ARGUMENTS and COMMON. Arguments without a parameter are omitted.

    Raises:
        CannotCall: if it requires other arguments.
    """
    signature = signature_of(function)
    meanings = roles(function, gap)
    positional, named = [], {}
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            if not meanings:
                positional = [values[role] for role in ARGUMENTS[gap] if role in values]
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        role = meanings.get(parameter.name)
        is_optional = parameter.default is not parameter.empty
        keeps_default = is_optional and role in DEFAULTS_KEPT
        if role is not None and role in values and not keeps_default:
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(values[role])
            else:
                named[parameter.name] = values[role]
        elif not is_optional:
            raise CannotCall(f"the parameter {parameter.name!r} is not one of the assignment")
    return function(*positional, **named)


def takes(function: Callable[..., Any], gap: str, role: str) -> bool:
    """Whether a function has a parameter for an argument."""
    return role in roles(function, gap).values()


def received(
    function: Callable[..., Any], gap: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments, by meaning, with which a function of the student would have been called."""
    meanings = roles(function, gap)
    bound = signature_of(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return {meanings[name]: value for name, value in bound.arguments.items() if name in meanings}
