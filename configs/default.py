"""Every config field, with its unit and default; the other configs change some of them.

Any field can be set on the command line: `--config.student.batch_size=128`.

Durations are text, a number and its unit: "240 epochs", "1500 steps" or "2e6 examples".
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the defaults: the paper's loss and mixup, on no data set in particular."""
    config = ConfigDict()
    config.seed = 0  # chooses the part of the data, its noise, and the teacher's training
    config.seeds = (0, 1, 2, 3, 4)  # one student is trained for every arm and every one of these
    # Ways of training the student: ce, mixup, kd, mixkd (mixkd_jax/training/arms.py).
    config.arms = ("ce", "mixup", "kd", "mixkd")
    config.data = data()
    config.mixup = mixup()
    config.loss = loss()
    config.teacher = training()
    # Where the teacher's parameters lie, and what its optimizer keeps of each: "replicated" has
    # all of them on every device, "sharded" a part, to be gathered while they are used.
    config.teacher_parameters = "replicated"
    config.student = training()
    config.evaluation = evaluation()
    config.analysis = analysis()
    config.log = log()
    config.checkpoint = checkpoint()
    return config


def data() -> ConfigDict:
    """Where images come from and what is done to them."""
    data = ConfigDict()
    data.name = "digits"  # "digits" (in scikit-learn), "folder", or the name of a TFDS data set
    data.dir = ""  # of "folder": that folder. Of TFDS: where its data sets are; "" is its default
    data.download = True  # download a TFDS data set that isn't there
    # "device" keeps all images on every device, "stream" decodes them batch by batch; "auto"
    # streams a folder of more than 4 GiB of pixels.
    data.pipeline = "auto"
    data.workers = 8  # stream: threads that decode; 0 decodes when a batch is asked for
    data.prefetch = 2  # stream: batches decoded ahead
    # stream: training views; "random_resized_crop", or "resize_crop": resize, then a random crop.
    data.crop = "random_resized_crop"
    # "stop" at an image that can't be decoded, or "skip" it. A stream always stops at a broken test
    # or validation image, for what is measured there is the whole split or nothing.
    data.broken = "stop"
    # How many training images each model learns from: the first ones of one shuffle, which
    # `seed` decides, so that the smaller part lies within the larger. -1 takes all.
    data.teacher_examples = -1
    data.student_examples = -1
    data.validation_examples = 0  # held out of the training images, watched while training
    data.test_examples = -1  # the first ones of the test split; -1 takes all
    # Gaussian noise, added once to what the student learns from and is measured on (its training
    # images, the validation and the test images), not to what the teacher learns from: its
    # standard deviation as a fraction of the pixels' range.
    data.noise = 0.0
    # Pixels of both sides of what the models see. 0: as the images are; of "folder": their own
    # size if they have one, else found.
    data.image_size = 0
    data.resize = 0  # training: pixels to resize to before a random crop of image_size; 0: no crop
    data.crop_padding = 0  # pixels of zeros on every side before a random crop; 0: no crop
    data.flip = False  # mirror half of the images, left to right
    # What every model subtracts from and divides pixels in [0, 1] by: a number per channel.
    data.mean = (0.0,)
    data.std = (1.0,)
    return data


def mixup() -> ConfigDict:
    """How the arms `mixup` and `mixkd` mix examples: x = lam x_i + (1 - lam) x_j."""
    mixup = ConfigDict()
    mixup.alpha = 1.0  # lam ~ Beta(alpha, alpha); 0 never mixes
    mixup.partial = 1.0  # probability that an example is mixed at all
    mixup.per_example = True  # one lam for every example; False: one for the whole batch
    return mixup


def loss() -> ConfigDict:
    """What the arms `kd` and `mixkd` minimise: kd_weight * term + ce_weight * cross-entropy."""
    loss = ConfigDict()
    # The distillation term: kl, lskd, dkd, rld or dist (mixkd_jax/training/objectives.py).
    loss.name = "kl"
    loss.temperature = "2"  # a positive number; for kl also "std" (each row by its own deviation)
    loss.kd_weight = 1.0
    loss.ce_weight = 0.0
    loss.ddof = 0  # lskd: 0 takes the standard deviation of a population, 1 that of a sample
    loss.target_weight = 1.0  # dkd: weight of the target class's part (alpha in its paper)
    loss.nontarget_weight = 8.0  # dkd: weight of the other classes' part (beta in its paper)
    loss.confidence_weight = 1.0  # rld: weight of sample confidence (alpha in its paper)
    loss.confidence_temperature = 1.0  # rld: temperature of sample confidence
    loss.inter_weight = 1.0  # dist: weight of the correlation over classes
    loss.intra_weight = 1.0  # dist: weight of the correlation over examples
    return loss


def training() -> ConfigDict:
    """How one model is trained; the teacher and the student each have all of these."""
    training = ConfigDict()
    training.model = "cnn"  # a name of mixkd_jax.models.model_names()
    # Of the paper's models: "student" (a hidden layer), "teacher" (dropout), "imagenet"; "" chooses
    # the one that the paper gives the model.
    training.head = ""
    training.dtype = "float32"  # of computation: float32 or bfloat16
    # "data" standardises pixels by data.mean and data.std; "paper" and "keras" as the pipeline of
    # the paper or of keras.applications did it for this model (mixkd_jax.models.pixel_statistics).
    training.pixels = "data"
    # Keras files to start from (docs/weights.md), paths or hf://owner/repository/file: all weights
    # of this very model, or those of its backbone. With `weights`, `duration` may be "0 epochs".
    training.weights = ""
    training.backbone_weights = ""
    # First train the head alone, the backbone frozen: Adam on the cross-entropy, without mixing.
    training.head_duration = "0 epochs"
    training.head_learning_rate = 1e-3
    training.batch_size = 64  # examples in a step, over all devices together
    training.duration = "1 epochs"

    training.optimizer = ConfigDict()
    training.optimizer.name = "sgd"  # sgd, adam or adamw
    training.optimizer.momentum = 0.9  # sgd
    training.optimizer.nesterov = True  # sgd
    training.optimizer.b1 = 0.9  # adam, adamw
    training.optimizer.b2 = 0.999  # adam, adamw
    training.optimizer.eps = 1e-8  # adam, adamw
    # Not on biases and BatchNorm. sgd, adam: added to the gradient (L2); adamw: decoupled.
    training.optimizer.weight_decay = 5e-4
    training.optimizer.clip_norm = 0.0  # largest global norm of the gradient; 0 doesn't clip

    training.schedule = ConfigDict()
    training.schedule.name = "constant"  # constant, cosine, multistep or table
    training.schedule.learning_rate = 0.05  # the peak; for table, the value at step 0
    training.schedule.warmup = "0 epochs"  # linear from 0 to the peak (not for table)
    training.schedule.end = 0.0  # cosine: the last learning rate
    training.schedule.milestones = ("150 epochs", "180 epochs", "210 epochs")  # multistep
    training.schedule.factor = 0.1  # multistep: multiplies the rate at every milestone
    # table: pieces (end, "linear" or "cosine", learning rate at its end), one after the other.
    training.schedule.pieces = (("1 epochs", "linear", 0.05),)
    training.schedule.once_per_epoch = False  # hold the rate for an epoch, as Keras schedules do
    return training


def evaluation() -> ConfigDict:
    """How a trained model is measured on the test images."""
    evaluation = ConfigDict()
    evaluation.batch_size = 500  # examples at once; changes no result
    evaluation.num_bins = 15  # equal-width confidence bins of the ECE
    return evaluation


def analysis() -> ConfigDict:
    """How a trained model is analysed between two images."""
    analysis = ConfigDict()
    # Pairs of images mixed with lam ~ U(0, 1), of what students learn from and of the test images
    # each. The answers to all of them are held in memory. 0 analyses nothing.
    analysis.pairs = 2000
    analysis.path_pairs = 200  # the first of these, each followed at 21 values of lam
    # Test images that are corrupted in 25 ways; all of them lie on every device. 0 corrupts none.
    analysis.corrupted_images = 500
    return analysis


def log() -> ConfigDict:
    """What is written while a model trains."""
    log = ConfigDict()
    log.every = "1 epochs"  # a line of metrics, averaged over the time since the last one
    log.validate_every = "1 epochs"  # the validation images; a multiple of `every`
    log.progress_seconds = 10.0  # seconds between lines of progress on the terminal
    # Steps that the device runs before the host looks again; no result depends on it. 0 chooses:
    # 1 on a CPU, where XLA compiles convolutions in a loop badly, and 50 on a GPU or TPU.
    log.steps_per_dispatch = 0
    return log


def checkpoint() -> ConfigDict:
    """What is kept of a model's training."""
    checkpoint = ConfigDict()
    checkpoint.every = "20 epochs"  # between checkpoints; the last step always has one
    checkpoint.keep = 2  # the newest ones kept of each run
    return checkpoint
