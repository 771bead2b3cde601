"""Readers of annotation formats: COCO, Pascal VOC, YOLO and the data YAML."""
