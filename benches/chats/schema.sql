-- The main tables of WhatsApp's message database. The unique index on random keys and the merges
-- of the full-text index are what scatters a day's writes over the whole file.
CREATE TABLE jid (
    _id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, server TEXT NOT NULL,
    agent INTEGER, device INTEGER, type INTEGER, raw_string TEXT);
CREATE UNIQUE INDEX jid_raw_string_index ON jid (raw_string);

CREATE TABLE chat (
    _id INTEGER PRIMARY KEY AUTOINCREMENT, jid_row_id INTEGER UNIQUE, hidden INTEGER,
    subject TEXT, created_timestamp INTEGER, display_message_row_id INTEGER,
    last_message_row_id INTEGER, last_read_message_row_id INTEGER, archived INTEGER,
    sort_timestamp INTEGER, unseen_message_count INTEGER);

CREATE TABLE message (
    _id INTEGER PRIMARY KEY AUTOINCREMENT, chat_row_id INTEGER NOT NULL, from_me INTEGER NOT NULL,
    key_id TEXT NOT NULL, sender_jid_row_id INTEGER, status INTEGER, broadcast INTEGER,
    recipient_count INTEGER, participant_hash TEXT, origination_flags INTEGER, origin INTEGER,
    timestamp INTEGER, received_timestamp INTEGER, receipt_server_timestamp INTEGER,
    message_type INTEGER, text_data TEXT, starred INTEGER, lookup_tables INTEGER,
    sort_id INTEGER NOT NULL DEFAULT 0, message_add_on_flags INTEGER);
CREATE UNIQUE INDEX message_key_index
    ON message (key_id, chat_row_id, from_me, sender_jid_row_id);
CREATE INDEX message_chat_id_index ON message (chat_row_id, _id);
CREATE INDEX message_sort_id_index ON message (sort_id);
CREATE INDEX message_chat_sort_id_index ON message (chat_row_id, sort_id);
CREATE INDEX message_type_chat_index ON message (message_type, chat_row_id, timestamp);
CREATE INDEX message_type_sender_index ON message (message_type, from_me, sender_jid_row_id);
CREATE INDEX message_starred_sort_id_index ON message (starred, sort_id);

CREATE TABLE message_media (
    message_row_id INTEGER PRIMARY KEY, chat_row_id INTEGER, transferred INTEGER, file_path TEXT,
    file_size INTEGER, media_key BLOB, media_key_timestamp INTEGER, width INTEGER,
    height INTEGER, direct_path TEXT, mime_type TEXT, file_length INTEGER, file_hash TEXT,
    enc_file_hash TEXT);
CREATE INDEX message_media_chat_index ON message_media (chat_row_id);
CREATE INDEX message_media_hash_index ON message_media (file_hash);
CREATE INDEX message_media_path_index ON message_media (file_path);

CREATE TABLE message_thumbnail (message_row_id INTEGER PRIMARY KEY, thumbnail BLOB);

CREATE TABLE receipt_user (
    _id INTEGER PRIMARY KEY AUTOINCREMENT, message_row_id INTEGER NOT NULL,
    receipt_user_jid_row_id INTEGER NOT NULL, receipt_timestamp INTEGER,
    read_timestamp INTEGER, played_timestamp INTEGER);
CREATE UNIQUE INDEX receipt_user_index ON receipt_user (message_row_id, receipt_user_jid_row_id);

CREATE TABLE receipt_device (
    _id INTEGER PRIMARY KEY AUTOINCREMENT, message_row_id INTEGER NOT NULL,
    receipt_device_jid_row_id INTEGER NOT NULL, receipt_device_timestamp INTEGER,
    primary_device_version INTEGER);
CREATE UNIQUE INDEX receipt_device_index
    ON receipt_device (message_row_id, receipt_device_jid_row_id);

CREATE VIRTUAL TABLE message_ftsv2 USING fts4 (content, fts_jid, fts_namespace);
