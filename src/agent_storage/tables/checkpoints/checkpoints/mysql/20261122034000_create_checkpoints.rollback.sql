-- Drop the table of checkpoints, with all of them.
DROP TABLE checkpoints;
