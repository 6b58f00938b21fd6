"""Items: values of an owner by namespace and key, which belong to no thread."""
