"""The models as ``keras.applications`` has its own: by name, with weights from a converted file, all or nothing."""
