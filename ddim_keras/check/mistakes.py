"""Catalogue of known mistakes, each with the sentence that explains it.

A key consists of the function and a word. `judge_lab` and `judge_exercise` find the mistakes, and
the tests have a wrong solution for each.
"""

MISTAKES = {
    # diffusion_schedule
    "diffusion_schedule.swapped": "The two results are swapped: return the noise rates first, "
    "then the signal rates (signal: cosine, noise: sine).",
    "diffusion_schedule.arcsin": "The angles of the ends come from the arcsine: the signal rate is "
    "the cosine of the angle, so its inverse is the arccosine.",
    "diffusion_schedule.variances": "Variances are returned instead of rates: the rates are "
    "standard deviations, the square roots of the variances.",
    "diffusion_schedule.root_left_out": "A square root is missing: the noise rate is "
    "sqrt(1 - signal_rate**2), not 1 - signal_rate**2.",
    "diffusion_schedule.sum_to_one": "The rates add up to 1, but their squares should: the noise "
    "rate is sqrt(1 - signal_rate**2).",
    "diffusion_schedule.ends_as_variances": "The ends 0.95 and 0.02 are used as variances: they "
    "are signal rates, so do not take their square root.",
    "diffusion_schedule.ends_squared": "The ends 0.95 and 0.02 are squared: they are signal rates "
    "already, not the roots of signal rates.",
    "diffusion_schedule.no_arccos": "The ends of the signal rate are used as angles: convert them "
    "with the arccosine first.",
    "diffusion_schedule.direction": "The schedule runs backwards, or its ends are swapped: at "
    "time 0 the signal rate is 0.95, at time 1 it is 0.02.",
    "diffusion_schedule.no_offset": "The angle runs from 0 to pi/2: at time 1 the signal rate is "
    "0, by which `denoise` divides; use the ends 0.95 and 0.02.",
    "diffusion_schedule.start_left_out": "The angle at time 0 is missing: the angle is "
    "start_angle + time * (end_angle - start_angle).",
    "diffusion_schedule.start_not_subtracted": "The angle goes beyond its end: it is "
    "start_angle + time * (end_angle - start_angle), with the start subtracted.",
    "diffusion_schedule.ends": "The ends of the schedule are neither the published 0.95 and "
    "0.02 nor the constants in the file.",
    "diffusion_schedule.not_unit": "The squares of the two rates do not add up to 1: take the sine "
    "and the cosine of one angle.",
    "diffusion_schedule.not_two": "Return two results: the noise rates and the signal rates.",
    "diffusion_schedule.no_signal": "At time 1 the signal rate is 0, by which `denoise` divides: "
    "use the ends 0.95 and 0.02.",
    "diffusion_schedule.batch": "All images of a batch get the same rates: keep the shape "
    "(B, 1, 1, 1) of the times.",
    # denoise
    "denoise.gets_noise_rate": "The network gets the noise rate: its second input is the noise "
    "variance, noise_rates**2.",
    "denoise.gets_signal": "The network gets the signal rate or its square: its second input is "
    "the noise variance, noise_rates**2.",
    "denoise.gets_time": "The network gets the diffusion time: its second input is the noise "
    "variance, noise_rates**2.",
    "denoise.gets_other_level": "The second input of the network is not the noise variance, "
    "noise_rates**2.",
    "denoise.gets_other_images": "The network does not get the unchanged noisy images.",
    "denoise.sign": "The predicted noise has the wrong sign in the predicted image: it is "
    "(noisy_images - noise_rates * pred_noises) / signal_rates.",
    "denoise.divides_by_noise": "The predicted image is divided by the noise rate: divide by the "
    "signal rate.",
    "denoise.not_divided": "The predicted image is not divided by the signal rate.",
    "denoise.multiplied": "The predicted image is multiplied by the signal rate: divide by it.",
    "denoise.swapped": "Noise rate and signal rate are swapped in the predicted image: it is "
    "(noisy_images - noise_rates * pred_noises) / signal_rates.",
    "denoise.variance_for_rate": "A variance is used instead of a standard deviation in the "
    "predicted image: use noise_rates and signal_rates, not their squares.",
    "denoise.root_of_rate": "The square root of a rate is taken in the predicted image: the rates "
    "are standard deviations already.",
    "denoise.noise_not_scaled": "The predicted noise is not multiplied by the noise rate before it "
    "is subtracted.",
    "denoise.other_images": "The predicted image is not (noisy_images - noise_rates * pred_noises) "
    "/ signal_rates.",
    "denoise.not_two": "Return two results: the predicted noises and the predicted images.",
    "denoise.predicts_image": "The network's output is used as the image: the network predicts "
    "the noise.",
    "denoise.order": "The two results are swapped: return pred_noises first, then pred_images.",
    "denoise.other_noises": "The first result is not the network's output, the predicted noise.",
    "denoise.networks_exchanged": "The two networks are swapped: training=True uses `network`, "
    "training=False uses `ema_network`.",
    "denoise.always_network": "The trained network is used instead of its average: with "
    "training=False use `ema_network`.",
    "denoise.always_average": "The average is used instead of the trained network: with "
    "training=True use `network`; otherwise nothing is learnt.",
    "denoise.batch": "The rates of one image are used for the whole batch: each image has its own.",
    # reverse_diffusion
    "reverse_diffusion.old_time": "The rates of the next step are computed with the old time, so "
    "that the noisy image does not change: use time - step_size for them.",
    "reverse_diffusion.not_carried_on": "The noisy image of the next step is not passed on: each "
    "step denoises the initial noise again.",
    "reverse_diffusion.time_advanced": "The next time is already used when the image is denoised: "
    "the first step has time 1, and only the remixing uses the next time.",
    "reverse_diffusion.ascending": "The times run from 0 to 1: sampling starts at time 1, where "
    "images are pure noise.",
    "reverse_diffusion.time_constant": "The time is the same in each step: subtract "
    "step * step_size, with step_size = 1 / diffusion_steps and no integer division.",
    "reverse_diffusion.step_size": "The times are not 1, 1 - 1/N, ..., 1/N for N steps: the step "
    "size is 1 / diffusion_steps.",
    "reverse_diffusion.fresh_noise": "New noise is drawn in each step: DDIM mixes the predicted "
    "noise again, so that the same initial noise gives the same image.",
    "reverse_diffusion.initial_noise_mixed": "The initial noise is mixed in again: the next noisy "
    "image is made of the predicted image and the predicted noise.",
    "reverse_diffusion.noisy_mixed": "The noisy image is used instead of the predicted noise, or "
    "the predicted image, when they are mixed for the next step.",
    "reverse_diffusion.swapped": "Noise rate and signal rate are swapped: the schedule returns "
    "noise rates first, and the image is signal * pred_images + noise * pred_noises.",
    "reverse_diffusion.unpacked": "The two results of `denoise` are swapped: it returns "
    "pred_noises first, then pred_images.",
    "reverse_diffusion.variances": "Variances are used instead of standard deviations in "
    "the next noisy image: use the rates, not their squares.",
    "reverse_diffusion.not_remixed": "The predicted image is passed on without the predicted "
    "noise: mix both with the rates of the next step.",
    "reverse_diffusion.wrong_mix": "The next noisy image is not next_signal_rate * pred_images + "
    "next_noise_rate * pred_noises.",
    "reverse_diffusion.wrong_next_time": "The rates of the next step are from a wrong time: use "
    "the rates of time - step_size.",
    "reverse_diffusion.noisy_returned": "The noise of the last step is kept: return the predicted "
    "images of the last step, not the noisy image mixed from them.",
    "reverse_diffusion.noises_returned": "The predicted noise is returned: return the predicted "
    "images of the last step.",
    "reverse_diffusion.other_result": "The result is not the predicted images of the last step.",
    "reverse_diffusion.one_more": "There is one step too many: the network is called "
    "diffusion_steps times.",
    "reverse_diffusion.one_less": "There is one step too few: the network is called "
    "diffusion_steps times.",
    "reverse_diffusion.returns_in_loop": "There is always only one step: is the "
    "`return` inside the loop?",
    "reverse_diffusion.count": "The network is not called once for each of the diffusion steps.",
    "reverse_diffusion.noise_ignored": "The first step does not denoise the initial noise that is "
    "passed.",
    "reverse_diffusion.trained_network": "The trained network is used instead of its average: "
    "denoise with training=False.",
    "reverse_diffusion.single_step": "A single step fails: diffusion_steps may be 1.",
    # train_step
    "train_step.normalisation_missing": "The normalisation is missing, so images and noise have "
    "different variances; apply the normaliser first.",
    "train_step.normalised_twice": "The images are normalised twice.",
    "train_step.swapped": "Noise rate and signal rate are swapped in the noisy images: they are "
    "signal_rates * images + noise_rates * noises.",
    "train_step.uniform_noise": "The noise is uniform: draw it from the standard normal "
    "distribution.",
    "train_step.shared_noise": "All images of a batch get the same noise: draw one for each.",
    "train_step.mix": "The noisy images are not signal_rates * images + noise_rates * noises with "
    "standard normal noises.",
    "train_step.loss_on_image": "The image loss is minimised: minimise the "
    "noise loss, and only report the image loss.",
    "train_step.loss_on_both": "The losses of noise and image are added: minimise the noise loss, "
    "and only report the image loss.",
    "train_step.loss_mixed_up": "The loss compares a noise with an image: compare the noises with "
    "the predicted noises.",
    "train_step.sum": "The loss is a sum over all pixels and images: take the mean, since the "
    "learning rate would depend on the batch size.",
    "train_step.other_noise": "The noise in the loss is not the one in the noisy "
    "images: draw it once and use it twice.",
    "train_step.no_update": "The weights of the network do not change: apply the gradients of "
    "its own weights.",
    "train_step.trains_average": "The average is trained instead of the network: denoise with "
    "training=True in the training step.",
    "train_step.ema_before": "The average is updated before the optimizer step: it follows the "
    "weights after the step.",
    "train_step.ema_reversed": "The two factors of the average are swapped: it is "
    "ema * average + (1 - ema) * weight, with an ema near 1.",
    "train_step.ema_missing": "The average never follows the network: update `ema_network` after "
    "each optimizer step.",
    "train_step.ema_copied": "The average is a copy of the network: keep most of its old value, "
    "ema * average + (1 - ema) * weight.",
    "train_step.ema_start": "The average starts with different weights from the network: copy "
    "them with `ema_network.set_weights(network.get_weights())`.",
    # sample_xt
    "sample_xt.roots_left_out": "The square roots are missing: the factors are sqrt(alpha_bar) "
    "and sqrt(1 - alpha_bar).",
    "sample_xt.signal_root": "The square root of alpha-bar is missing for the image: its factor is "
    "sqrt(alpha_bar).",
    "sample_xt.noise_root": "The square root is missing for the noise: its factor is "
    "sqrt(1 - alpha_bar), a standard deviation, not a variance.",
    "sample_xt.one_minus_root": "The factor of the noise is 1 - sqrt(alpha_bar): it is "
    "sqrt(1 - alpha_bar).",
    "sample_xt.swapped": "The factors are swapped: sqrt(alpha_bar) belongs to the image, "
    "sqrt(1 - alpha_bar) to the noise.",
    "sample_xt.off_by_one": "The step is off by one: use alphaBars[t] as it is passed.",
    "sample_xt.alpha": "Alpha is used instead of alpha-bar: the factors come from the product of "
    "all alphas up to the step.",
    "sample_xt.product_twice": "The product is taken twice: alphaBars is cumulative already.",
    "sample_xt.signal_missing": "The image is not scaled: its factor is sqrt(alpha_bar).",
    "sample_xt.noise_missing": "The noise is not scaled: its factor is sqrt(1 - alpha_bar).",
    "sample_xt.other_factors": "The factors are not sqrt(alpha_bar) of the image and "
    "sqrt(1 - alpha_bar) of the noise.",
    "sample_xt.sign": "The noise is subtracted: add it.",
    "sample_xt.broadcast": "The factors do not broadcast over the batch: give alphaBars[t] the "
    "shape (B, 1, 1, 1).",
    "sample_xt.noise_ignored": "The noise that is passed is not used: draw one only if epsilon "
    "is None.",
    # sample
    "sample.noise_at_end": "Noise is added in the last step as well: there z is 0.",
    "sample.beta_for_root": "The noise is multiplied by beta: sigma is its square root.",
    "sample.beta_tilde_for_root": "The noise is multiplied by beta-tilde: sigma is its square "
    "root.",
    "sample.sigma_left_out": "The noise is not multiplied by sigma.",
    "sample.no_noise": "No noise is added: algorithm 2 adds sigma * z in each but the last step.",
    "sample.wrong_sigma": "Sigma is neither sqrt(beta) nor sqrt(beta-tilde).",
    "sample.same_noise": "The same noise is added in each step: draw new noise in the loop.",
    "sample.shared_noise": "One noise is shared by all images or pixels: draw it in the shape "
    "of x.",
    "sample.uniform_noise": "The added noise is not standard normal: its mean is not 0.",
    "sample.start": "Sampling does not start from standard normal noise.",
    "sample.sign": "The predicted noise has the wrong sign: subtract it.",
    "sample.alpha_bar_for_alpha": "Alpha-bar is used instead of alpha: the mean is divided by "
    "sqrt(alpha), and beta = 1 - alpha is the factor of the noise.",
    "sample.alpha_for_alpha_bar": "Alpha is used instead of alpha-bar: the predicted noise is "
    "divided by sqrt(1 - alpha_bar).",
    "sample.root_left_out": "A square root is missing in the mean: it is (x - beta / "
    "sqrt(1 - alpha_bar) * noise) / sqrt(alpha).",
    "sample.not_divided": "The factor 1 / sqrt(alpha) of the mean is missing.",
    "sample.noise_factor": "The factor of the predicted noise is not beta / sqrt(1 - alpha_bar).",
    "sample.mean_factor": "The factor of x is not 1 / sqrt(alpha).",
    "sample.ascending": "The steps run forwards: sampling starts at the last step, T - 1, and "
    "ends at 0.",
    "sample.off_by_one": "The step is off by one: the network and the factors of a step must use "
    "the same t.",
    "sample.one_less": "There is one step too few: the loop runs over all steps, down to the "
    "first.",
    "sample.one_more": "There are more steps than the model has.",
    "sample.number": "The number of images is not n_samples.",
    "sample.number_of_classes": "With classes, return n_samples * len(classes) images.",
    "sample.classes_ignored": "The classes are not passed to the network, n_samples images of "
    "each.",
    "sample.output": "The result is not the image after the last step.",
    # train
    "train.loss_on_image": "The loss compares images: compare the noise with the predicted noise.",
    "train.loss_on_both": "The losses of noise and image are added: minimise that of the noise.",
    "train.loss_mixed_up": "The loss compares a noise with an image: compare the noise with the "
    "predicted noise.",
    "train.sum": "The loss is a sum over all pixels and images: take the mean.",
    "train.other_noise": "The noise in the loss is not the one in the noisy images: "
    "draw it once and use it twice.",
    "train.no_step": "The weights do not change: call backward and the optimizer's step.",
    "train.no_zero_grad": "The gradients accumulate over batches: call optim.zero_grad() for each.",
    "train.first_t": "The first step, t = 0, is never drawn: draw from 0 to T - 1.",
    "train.last_t": "The last step, t = T - 1, is never drawn: the upper end of randint is "
    "exclusive.",
    "train.one_t": "The same step is drawn each time: draw one at random for each image.",
    "train.epochs": "The number of passes over the data is not n_epochs.",
    "train.not_noised": "The network gets the clean images: mix them with noise first.",
    "train.uniform_noise": "The noise is uniform: draw it from the standard normal distribution.",
    "train.shared_noise": "One noise is shared by all images or pixels: draw it in the shape of "
    "x0.",
    "train.off_by_one": "The step passed to the network is not the step of the noise: both must "
    "be the same t.",
    "train.mix": "The noisy images are not sqrt(alpha_bar) * x0 + sqrt(1 - alpha_bar) * noise.",
    "train.labels_ignored": "The labels of the batch are not passed to the network.",
}
