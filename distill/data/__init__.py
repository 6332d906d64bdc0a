"""The data room: files -> examples -> distinct examples -> splits that do not leak."""
