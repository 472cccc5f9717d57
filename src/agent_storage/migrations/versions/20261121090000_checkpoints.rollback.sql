-- Takes the checkpoints away again, with everything that is stored in them.

DROP TABLE checkpoints;
