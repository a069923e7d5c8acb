"""Pure functions of arrays: the equations of the method. They know nothing of models or tasks."""
