"""Every field of `transformers.TrainingArguments`, and what ltuning makes of it.

A field is honoured, or set by ltuning, or refused because it would change nothing here or something
other than it says. One that stands in none of the three tables is refused until it does.
"""

from __future__ import annotations

HONOURED = frozenset(
    {
        # how long, and how fast
        "num_train_epochs",
        "max_steps",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "learning_rate",
        "lr_scheduler_type",
        "lr_scheduler_kwargs",
        "warmup_steps",
        "optim",
        "optim_args",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
        # how it is computed
        "bf16",
        "fp16",
        "tf32",
        "activation_checkpointing",
        "gradient_checkpointing",
        "torch_compile",
        "torch_compile_backend",
        "torch_compile_mode",
        "torch_empty_cache_steps",
        "full_determinism",
        # batches
        "dataloader_drop_last",
        "dataloader_num_workers",
        "dataloader_pin_memory",
        "dataloader_persistent_workers",
        "dataloader_prefetch_factor",
        # evaluations and checkpoints
        "eval_strategy",
        "eval_steps",
        "eval_delay",
        "eval_on_start",
        "save_strategy",
        "save_steps",
        "save_total_limit",
        # what is said of it
        "logging_strategy",
        "logging_steps",
        "logging_first_step",
        "logging_nan_inf_filter",
        "log_level",
        "disable_tqdm",
        "skip_memory_metrics",
        "report_to",
        "run_name",
        "project",
        "trackio_space_id",
        "trackio_bucket_id",
        "trackio_static_space_id",
    }
)

_OURS = "it is set by ltuning, leave it out"
_RESUME = "use `--resume`, or `resume` of `fit`, instead"
OWNED = {
    "output_dir": "use `--output` instead",
    "seed": "use the option `seed` instead",
    "data_seed": "use the option `seed` instead",
    "use_cpu": "use the option `backbone.device` instead",
    "per_device_eval_batch_size": "use the option `backbone.max_branches` instead",
    "metric_for_best_model": "use the option `stopping.metric` instead",
    "greater_is_better": "it follows from the option `stopping.metric`, leave it out",
    "resume_from_checkpoint": _RESUME,
    "restore_callback_states_from_checkpoint": _OURS,
    "remove_unused_columns": _OURS,
    "label_names": _OURS,
    "load_best_model_at_end": _OURS,
    "do_train": _OURS,
    "do_eval": _OURS,
    "do_predict": _OURS,
}

_LOSS = "the losses of ltuning have none, leave it out"
_ORDER = "the order of the texts is ltuning's, leave it out"
_EVALUATION = "evaluations are ltuning's own, leave it out"
_PROCESS = "ltuning trains in one process, leave it out"
_HUB = "save the classifier, and upload its folder"
REFUSED = {
    "label_smoothing_factor": _LOSS,
    "neftune_noise_alpha": "ltuning adds no noise to embeddings, leave it out",
    "average_tokens_across_devices": _PROCESS,
    "train_sampling_strategy": _ORDER,
    "length_column_name": _ORDER,
    "group_by_length": _ORDER,
    "dataloader_in_order": _ORDER,
    "dataloader_multiprocessing_context": "workers are forked, leave it out",
    "ignore_data_skip": "a resumed run ends as an uninterrupted one does, leave it out",
    "save_only_model": "a run cannot be resumed from such checkpoints, leave it out",
    "enable_jit_checkpoint": "checkpoints are written every five minutes, leave it out",
    "auto_find_batch_size": "use the option `training.per_device_train_batch_size` instead",
    "optim_target_modules": "what is trained is chosen by `method.name`, leave it out",
    "bf16_full_eval": "use the option `backbone.dtype` instead",
    "fp16_full_eval": "use the option `backbone.dtype` instead",
    "prediction_loss_only": _EVALUATION,
    "eval_do_concat_batches": _EVALUATION,
    "eval_use_gather_object": _EVALUATION,
    "eval_accumulation_steps": _EVALUATION,
    "include_for_metrics": _EVALUATION,
    "batch_eval_metrics": _EVALUATION,
    "activation_checkpointing_kwargs": "it has no effect here, leave it out",
    "gradient_checkpointing_kwargs": "it has no effect here, leave it out",
    "use_liger_kernel": "it has no effect here, leave it out",
    "liger_kernel_config": "it has no effect here, leave it out",
    "use_cache": "it has no effect here, leave it out",
    "include_num_input_tokens_seen": "it has no effect here, leave it out",
    "debug": "it has no effect here, leave it out",
    "log_level_replica": _PROCESS,
    "log_on_each_node": _PROCESS,
    "save_on_each_node": _PROCESS,
    "local_rank": _PROCESS,
    "accelerator_config": _PROCESS,
    "parallelism_config": _PROCESS,
    "ddp_find_unused_parameters": _PROCESS,
    "ddp_bucket_cap_mb": _PROCESS,
    "ddp_broadcast_buffers": _PROCESS,
    "ddp_static_graph": _PROCESS,
    "ddp_backend": _PROCESS,
    "ddp_timeout": _PROCESS,
    "fsdp": _PROCESS,
    "fsdp_config": _PROCESS,
    "deepspeed": _PROCESS,
    "push_to_hub": _HUB,
    "hub_token": _HUB,
    "hub_private_repo": _HUB,
    "hub_model_id": _HUB,
    "hub_strategy": _HUB,
    "hub_always_push": _HUB,
    "hub_revision": _HUB,
}

# These take a step, or the weights that are evaluated, into their own hands.
REFUSED_OPTIMIZERS = ("galore_", "apollo_", "schedule_free_", "lomo", "adalomo")

LOG_LEVELS = ("debug", "info", "warning", "error", "critical", "passive")
