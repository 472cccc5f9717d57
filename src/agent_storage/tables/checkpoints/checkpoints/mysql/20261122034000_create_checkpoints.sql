-- Create the table of checkpoints.
CREATE TABLE checkpoints (
    id          CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL
                COMMENT 'Primary key: a UUIDv7, or the id that the caller gave',
    agent_id    VARCHAR(500) NOT NULL COMMENT 'Id of the agent, as its framework gives it',
    session_id  VARCHAR(500) COMMENT 'Id of the agent''s session, as its framework gives it',
    agent_type  VARCHAR(500) COMMENT 'Kind of the agent',
    name        LONGTEXT COMMENT 'Name of the checkpoint',
    owner       VARCHAR(500) COMMENT 'User or tenant to which the checkpoint belongs; null if not said',
    captured_at BIGINT NOT NULL COMMENT 'Time at which the state was captured, by the caller''s clock',
    parent_id   CHAR(36) CHARACTER SET ascii COLLATE ascii_bin COMMENT 'Checkpoint that this one follows',
    created_at  BIGINT NOT NULL COMMENT 'Time of the INSERT',
    updated_at  BIGINT NOT NULL COMMENT 'Time of the last change',
    size_bytes  INT GENERATED ALWAYS AS (length(state)) STORED COMMENT 'Length of the state as JSON text; generated',
    state       LONGTEXT NOT NULL COMMENT 'Complete state of the agent as JSON text',
    PRIMARY KEY (id),
    KEY checkpoints_agent_id_idx (agent_id, captured_at, id),
    KEY checkpoints_session_id_idx (session_id, captured_at, id),
    KEY checkpoints_agent_type_idx (agent_type, captured_at, id),
    KEY checkpoints_owner_idx (owner, captured_at, id),
    KEY checkpoints_captured_at_idx (captured_at, id),
    KEY checkpoints_parent_id_idx (parent_id),
    CONSTRAINT checkpoints_id_check CHECK (char_length(id) = 36),
    CONSTRAINT checkpoints_agent_id_check CHECK (char_length(agent_id) >= 1),
    CONSTRAINT checkpoints_owner_check CHECK (char_length(owner) >= 1),
    CONSTRAINT checkpoints_captured_at_check CHECK (captured_at BETWEEN -62135596800000000 AND 253402300799999999),
    CONSTRAINT checkpoints_created_at_check CHECK (created_at BETWEEN -62135596800000000 AND 253402300799999999),
    CONSTRAINT checkpoints_updated_at_check CHECK (updated_at BETWEEN -62135596800000000 AND 253402300799999999),
    CONSTRAINT checkpoints_parent_id_fkey FOREIGN KEY (parent_id) REFERENCES checkpoints (id) ON DELETE SET NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC
  DEFAULT CHARACTER SET utf8mb4 COLLATE /*M! utf8mb4_nopad_bin */ /*!80000 utf8mb4_0900_bin */
  COMMENT = 'Saved states of agents, from which they can continue';
