"""CAM from a ResNet-LSTM over contiguous slices (Ramananda & Sundaresan, arXiv 2309.16627).

Only the abstract is public: a classifier that reads a scan's slices in order, its class activation maps, pseudo-masks
of hemorrhage made without supervision, and a light U-Net that runs alone. All else here is ours (decision D22).
"""

from ichseg.methods.resnet_lstm.candidates import bright_candidates, refined
from ichseg.methods.resnet_lstm.network import SliceSequenceClassifier, sequence_loss, sequence_maps, windows
from ichseg.methods.resnet_lstm.sequences import SliceSequences, middle_score_and_label
from ichseg.methods.resnet_lstm.settings import SequenceSettings, load_sequence_classifier
from ichseg.methods.resnet_lstm.volume import SequenceMasksd, SequenceScorer

__all__ = [
    "SequenceMasksd",
    "SequenceScorer",
    "SequenceSettings",
    "SliceSequenceClassifier",
    "SliceSequences",
    "bright_candidates",
    "load_sequence_classifier",
    "middle_score_and_label",
    "refined",
    "sequence_loss",
    "sequence_maps",
    "windows",
]
