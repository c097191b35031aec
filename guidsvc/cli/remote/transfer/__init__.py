"""`export` and `import`: all records as lines of JSON.

exporting   the command `export`
importing   the command `import`
lines       the lines of a file, and the operations that they stand for
sending     a batch of lines, and the outcome of each
journal     the position of an import in its file, at which it resumes after a kill
"""
